r"""Ring attention: what one device does while keys and values go round."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.layers import masks

Block = tuple[Tensor, Tensor, Tensor]
Rule = Callable[[Tensor, Tensor], Tensor]
HANDED_ON = "whose block each device handed on"


def ring_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    r"""Whole sequences, and which positions each device of a ring holds."""
    h, d, e = draw.sizes(3, 2, 5)

    def inputs(n_devices: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        t = n_devices * draw.size(2, 4)
        q, k, v = (2 * draw.normal(h, t, size, dtype=dtype) for size in (d, d, e))
        return q, k, v, list(torch.arange(t).chunk(n_devices)), n_devices

    yield inputs(2), {}
    yield inputs(3, torch.float64), {}
    yield inputs(3), {"mask_rule": masks.causal_mask}
    q, k, v, shares, n_devices = inputs(4)
    dealt = [torch.arange(rank, q.shape[-2], n_devices) for rank in range(n_devices)]  # token by token, in turn
    yield (q, k, v, dealt, n_devices), {"mask_rule": masks.causal_mask}
    yield inputs(1), {"mask_rule": masks.causal_mask}


def all_devices(
    function: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: list[Tensor],
    n_devices: int,
    mask_rule: Rule | None = None,
) -> dict[str, Any]:
    r"""Let the function be each device of the ring in turn; give what they found, and whose blocks they handed on."""
    blocks = [(k[..., share, :], v[..., share, :], share) for share in positions]
    outs, lses, handed_on = [], [], []
    for rank, share in enumerate(positions):
        given: list[int] = []

        def exchange(block: Block, rank: int = rank, given: list[int] = given) -> Block:
            given.append(next(i for i, own in enumerate(positions) if torch.equal(own, block[2])))
            return tuple(part.clone() for part in blocks[(rank - len(given)) % n_devices])

        own = (q[..., share, :], k[..., share, :], v[..., share, :], share)
        out, lse = function(*own, n_devices, exchange, mask_rule)
        outs.append(out)
        lses.append(lse)
        handed_on.append(given)
    return {"output": torch.cat(outs, -2), "log-sum-exp": torch.cat(lses, -1), HANDED_ON: handed_on}


def one_device_with_everything(
    q: Tensor, k: Tensor, v: Tensor, positions: list[Tensor], n_devices: int, mask_rule: Rule | None = None
) -> dict[str, Any]:
    order = torch.cat(positions)
    scores = (q[..., order, :].double() @ k.double().transpose(-2, -1)) / q.shape[-1] ** 0.5
    if mask_rule is not None:
        scores = scores.masked_fill(~mask_rule(order, torch.arange(k.shape[-2])), float("-inf"))
    handed_on = [[(rank - step) % n_devices for step in range(n_devices - 1)] for rank in range(n_devices)]
    out, lse = scores.softmax(-1) @ v.double(), scores.logsumexp(-1)
    wide = torch.promote_types(q.dtype, torch.float32)
    return {"output": out.to(q.dtype), "log-sum-exp": lse.to(wide), HANDED_ON: handed_on}


def look_at(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (q @ k.mT) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0) @ v, scores.logsumexp(-1)


def weighed(out: Tensor, lse: Tensor, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    both = torch.logaddexp(lse, found[1])
    shares = [(x - both).exp().nan_to_num(0.0)[..., None] for x in (lse, found[1])]
    return out * shares[0] + found[0] * shares[1], both


def all_blocks_kept(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    n_devices: int,
    exchange: Callable[[Block], Block],
    mask_rule: Rule | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Collect all blocks and look at them at once: right, though it needs the memory that a ring is there to save."""
    held = [(k, v, positions)]
    while len(held) < n_devices:
        held.append(exchange(held[-1]))
    keys, values, places = (
        torch.cat(parts, dim) for parts, dim in zip(zip(*held, strict=True), (-2, -2, 0), strict=True)
    )
    return look_at(q, keys, values, None if mask_rule is None else mask_rule(positions, places))


def ring_by(
    merge: Callable[..., tuple[Tensor, Tensor]] = weighed,
    n_looks: Callable[[int], int] = lambda n: n,
    hands_on_own: bool = False,
    own_positions: bool = False,
    masked: bool = True,
    late: bool = False,
) -> Callable[..., tuple[Tensor, Tensor]]:
    r"""A device with another way to merge, another number of looks, or another block to hand on."""

    def wrong(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        n_devices: int,
        exchange: Callable[[Block], Block],
        mask_rule: Rule | None = None,
    ) -> tuple[Tensor, Tensor]:
        block, result = (k, v, positions), None
        for step in range(n_looks(n_devices)):
            if step > 0 and not late:
                block = exchange((k, v, positions) if hands_on_own else block)
            places = positions if own_positions else block[2]
            mask = mask_rule(positions, places) if mask_rule is not None and masked else None
            found = look_at(q, block[0], block[1], mask)
            result = found if result is None else merge(*result, found)
            if late:
                block = exchange(block)
        return result if result is not None else look_at(q, k, v, None)

    return wrong


RING_ATTENTION = Exercise(
    id="layers.ring.ring_attention",
    lesson="03",
    title="One device of a ring",
    task="You are one of `n_devices`. You hold a share of the sequence: queries, keys and values, and their positions. "
    "Your queries must meet all keys, and no device can hold them all. So keys and values go round: "
    "`exchange((k, v, kv_positions))` hands a block to the next device and gives you the one from the device before "
    "you. Look at each block with `flash.flash_with_lse(q, k, v, mask)`, which gives (out, lse), and join what you "
    "find with your `merge_attention`. With a `mask_rule`, the mask for a block is "
    "`PositionTable(mask_rule, positions, kv_positions)`. Hand on no more often than needed: n_devices - 1 times. "
    "Return the output and the log-sum-exp for your queries.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=34,
    hints=(
        "Follow device 0 of three. It begins with block 0. Which block does it hold after one exchange, and after two? "
        "What does it hand on the second time?",
        "The block that you hold is three tensors, and all three travel. The positions must, because the mask needs to "
        "know where the keys stood.",
        "n_devices looks, n_devices - 1 exchanges: exchange before each look but the first.",
        "The first look has nothing to be merged with: it *is* the result so far.",
    ),
    cases=ring_cases,
    oracle=one_device_with_everything,
    other_style=all_blocks_kept,
    probe=all_devices,
    tolerance=Tolerance(5e-5, 1e-5, "exponentials of rounded scores, summed in another order"),
    mistakes=(
        Mistake(
            "one block too few",
            ring_by(n_looks=lambda n: max(n - 1, 1)),
            "One block is never looked at: you stop after n_devices - 1 blocks. There are n_devices of them, your own "
            "included; it is the *exchanges* that are one fewer.",
        ),
        Mistake(
            "one exchange too many",
            ring_by(late=True),
            "The result is right, but you exchange once more than needed: after the last look nobody needs a further "
            "block. With two devices that doubles what goes over the network.",
        ),
        Mistake(
            "hands on its own block each time",
            ring_by(hands_on_own=True),
            "You hand on your *own* block every time. Then the device after you gets the same keys again and again, "
            "and never those from further away. Hand on the block that you have just received.",
        ),
        Mistake(
            "positions left at home",
            ring_by(own_positions=True),
            "You make the mask as if the visiting keys stood at your own positions. Then every block looks like your "
            "own to the mask, and the future leaks. The positions come round with the keys: use those of the block.",
        ),
        Mistake(
            "mask ignored",
            ring_by(masked=False),
            "`mask_rule` is not used: your queries see keys of the future that come round.",
        ),
        Mistake(
            "plain mean of the blocks",
            ring_by(merge=lambda out, lse, found: ((out + found[0]) / 2, torch.logaddexp(lse, found[1]))),
            "You average what the blocks gave, as if each had found as much as the others. `merge_attention` weighs "
            "them by exp(lse).",
        ),
        Mistake(
            "log-sum-exp not carried on",
            ring_by(merge=lambda out, lse, found: (weighed(out, lse, found)[0], lse)),
            "You merge the outputs but keep the first lse. At the next merge your growing result is weighed as if it "
            "still came from one block. `merge_attention` gives both: carry both on.",
        ),
        Mistake(
            "only the last block",
            ring_by(merge=lambda out, lse, found: found),
            "Each block overwrites what the earlier ones gave. Merge it to what you have.",
        ),
    ),
)
