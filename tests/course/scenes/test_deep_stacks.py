r"""Deep stacks: each place of the norm against its formula for a single seed, and the measures against loops."""

import pytest
import torch
import torch.nn.functional as F

from minillm.course.scenes.deep_stacks import (
    N_CLASSES,
    PLACES,
    WIDTH,
    fresh_stack,
    labelled_points,
    likeness,
    plain_norm,
    read_stack,
    stack_logits,
    stack_streams,
    train_stack,
)


def normed(x):
    return F.layer_norm(x, x.shape[-1:])


FORMULAS = {
    "pre-norm": lambda x, part, alpha: x + part(normed(x)),
    "post-norm": lambda x, part, alpha: normed(x + part(x)),
    "sandwich": lambda x, part, alpha: x + normed(part(normed(x))),
    "DeepNorm": lambda x, part, alpha: normed(alpha * x + part(x)),
    "no residual": lambda x, part, alpha: normed(part(x)),
    "no norm": lambda x, part, alpha: x + part(x),
}


@pytest.mark.parametrize("place", PLACES)
def test_stacks_side_by_side_are_the_formula_one_by_one(place, fresh_seed):
    seeds = (fresh_seed, fresh_seed + 1)
    stack = fresh_stack(place, 5, seeds)
    points, _ = labelled_points(seeds)
    streams = stack_streams(stack, points)
    for s in range(2):
        x = points[s]
        for layer, (up, down) in enumerate(stack.layers):
            x = FORMULAS[place](x, lambda h: F.relu(h @ up[s]) @ down[s], (2 * 5) ** 0.25)  # noqa: B023
            torch.testing.assert_close(streams[layer + 1][s], x, rtol=1e-4, atol=1e-4 * float(x.detach().abs().max()))
    last = normed(streams[-1][0]) if place in ("pre-norm", "sandwich") else streams[-1][0]
    assert stack_logits(stack, streams[-1]).shape == (2, 128, N_CLASSES)
    torch.testing.assert_close(stack_logits(stack, streams[-1])[0], last @ stack.head[0], rtol=1e-3, atol=1e-3)
    alone = fresh_stack(place, 5, seeds[1:])
    assert torch.equal(alone.layers[3][1][0], stack.layers[3][1][1]), "a seed's weights do not depend on its neighbours"


def test_fresh_weights_follow_xavier_and_beta(fresh_seed):
    plain, deep = (fresh_stack(place, 8, [fresh_seed]) for place in ("post-norm", "DeepNorm"))
    assert float(plain.layers[0][0].std()) == pytest.approx((2 / (WIDTH + 2 * WIDTH)) ** 0.5, rel=0.05)
    torch.testing.assert_close(deep.layers[2][1], plain.layers[2][1] * 64**-0.25)
    assert (plain.alpha, deep.alpha) == (1.0, 2.0)


def test_likeness_is_the_mean_cosine_of_pairs(fresh_seed):
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(fresh_seed))
    cosines = [float(F.cosine_similarity(x[i], x[j], dim=0)) for i in range(7) for j in range(7) if i != j]
    assert float(likeness(x)) == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert float(likeness(x[:1].repeat(4, 1))) == pytest.approx(1.0)


def test_readings_and_training(fresh_seed):
    stack = fresh_stack("pre-norm", 3, [fresh_seed])
    readings = read_stack(stack, [fresh_seed], plain_norm("rms"))
    assert len(readings.variance) == len(readings.likeness) == 4 and len(readings.gradient) == 3
    assert float(readings.variance[0]) == 1.0 and float(readings.variance[3]) > 1.5
    history = train_stack(stack, [fresh_seed], 12, warmup_steps=3)
    torch.testing.assert_close(history[0], read_stack(fresh_stack("pre-norm", 3, [fresh_seed]), [fresh_seed]).loss)
    assert history.shape == (13, 1) and float(history[-1]) < 0.5 * float(history[0])


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="place='inside'"):
        fresh_stack("inside", 2, [0])
    with pytest.raises(ValueError, match="kind='batch'"):
        plain_norm("batch")
