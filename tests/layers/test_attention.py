r"""The attention module: grouped heads, rotation and rules against plain constructions."""

import pytest
import torch

from minillm.layers import alibi, masks, multi_head, paths, recorder, rope
from minillm.layers.attention import Attention


def test_multi_head_module_is_the_pure_function(fresh_seed):
    torch.manual_seed(fresh_seed)
    attn = Attention(24, 4, 4, 6).double()
    x = torch.randn(2, 7, 24).double()
    w = [p.weight for p in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)]
    want = multi_head.multi_head_attention(x, *w, 4, torch.ones(7, 7, dtype=torch.bool).tril())
    torch.testing.assert_close(attn(x, torch.arange(7)), want)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_grouped_heads_equal_multi_head_with_copied_keys(n_kv_heads, fresh_seed):
    torch.manual_seed(fresh_seed)
    head_dim, group = 6, 4 // n_kv_heads
    grouped, full = Attention(24, 4, n_kv_heads, head_dim), Attention(24, 4, 4, head_dim)
    full.load_state_dict(grouped.state_dict() | {
        f"{name}.weight": torch.cat([
            getattr(grouped, name).weight[(h // group) * head_dim : (h // group + 1) * head_dim] for h in range(4)
        ]) for name in ("k_proj", "v_proj")})
    x, positions = torch.randn(2, 7, 24), torch.arange(7)
    angles = rope.rope_angles(positions, head_dim)
    torch.testing.assert_close(grouped(x, positions, angles), full(x, positions, angles))


def test_rules_are_used(fresh_seed):
    torch.manual_seed(fresh_seed)
    x, positions = torch.randn(1, 6, 8), torch.arange(6)
    slopes = alibi.alibi_slopes(2)
    attn = Attention(8, 2, 2, 4, mask_rule=lambda q, k: masks.sliding_window_mask(q, k, 2),
                     bias_rule=lambda q, k: alibi.alibi_bias(q, k, slopes))
    with recorder.record() as tape:
        attn(x, positions)
    weights = tape["attn_weights"][0]
    assert torch.equal(weights[0, 0] > 0, masks.sliding_window_mask(positions, positions, 2))
    with torch.no_grad():
        attn.q_proj.weight.zero_()  # equal scores: what is left is the penalty of distance, e^slope for one step
    with recorder.record() as tape:
        attn(x, positions)
    ratio = tape["attn_weights"][0][0, :, 5, 5] / tape["attn_weights"][0][0, :, 5, 4]
    torch.testing.assert_close(ratio, slopes.exp())


def test_plain_and_fused_paths_agree_with_gradients(fresh_seed):
    torch.manual_seed(fresh_seed)
    attn = Attention(16, 4, 2, 4, qkv_bias=True, o_bias=True).double()
    x = torch.randn(3, 6, 16).double()
    positions = torch.tensor([[-1, -1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, -1, -1, -1]])
    results = []
    for plain in (False, True):
        attn.zero_grad()
        if plain:
            with paths.plain_path():
                assert not paths.use_fused()
                out = attn(x, positions)
        else:
            out = attn(x, positions)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in attn.parameters())])
    assert paths.use_fused()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_bad_groups_are_named():
    with pytest.raises(ValueError, match="n_kv_heads=3"):
        Attention(8, 4, 3, 2)
