r"""Two real processes give what two threads give, and send the same bytes."""

import torch

from minillm.training import zero
from minillm.training.wires import run_in_turn, run_ranks
from tests.training.parallel_cases import every_kind, uneven_batch, whole_model


def test_processes_and_threads_agree(fresh_seed):
    model, weights = whole_model(fresh_seed)
    batches = [uneven_batch(fresh_seed), uneven_batch(fresh_seed + 1)]
    work = (run_in_turn, 2, *every_kind(model.config, weights, batches))
    for apart, together in zip(run_ranks(*work, processes=True), run_ranks(*work), strict=True):
        stages, split, piped, (loss, gradient, sent) = apart
        other_stages, other_split, other_piped, (other_loss, other_gradient, other_sent) = together
        for stage in zero.STAGES:
            a, b = stages[stage], other_stages[stage]
            assert (a.losses, a.kept, a.sent, a.most_gathered) == (b.losses, b.kept, b.sent, b.most_gathered)
            assert (a.weights - b.weights).norm() < 1e-4 * b.weights.norm()
        assert split.sent == other_split.sent and piped.sent == other_piped.sent and sent == other_sent
        torch.testing.assert_close(split.logits, other_split.logits, rtol=1e-5, atol=1e-5)
        for mine, others in ((split, other_split), (piped, other_piped)):
            assert mine.gradients.keys() == others.gradients.keys()
            for name, grad in mine.gradients.items():
                torch.testing.assert_close(grad, others.gradients[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, other_gradient, rtol=1e-4, atol=1e-6)
        assert abs(loss - other_loss) < 1e-5
