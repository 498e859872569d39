r"""General and special texts: nothing is seen beforehand, nothing is changed in place, averages are what they say."""

import copy

import pytest
import torch

from minillm.bench import domains, results
from minillm.bench.domains import GENERAL, SENTENCES, STORIES
from minillm.bench.variants import adaptation, harness
from minillm.model.gpt import GPT
from minillm.text.characters import CharTokenizer


def lines_of(token_ids: torch.Tensor) -> list[str]:
    return CharTokenizer(harness.ALPHABET).decode(token_ids.tolist()).split("\n")


def other_model(seed: int) -> GPT:
    r"""A model whose blocks do something; a fresh one's add nothing."""
    model, generator = domains.fresh_model(seed), torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return model


def test_texts_are_of_their_kind_and_as_many_as_asked(fresh_seed: int):
    stories = lines_of(domains.training_text(STORIES, 7, fresh_seed))
    sentences = lines_of(domains.training_text(SENTENCES, 9, fresh_seed))
    assert len(stories) == 8 and len(sentences) == 10 and stories[-1] == sentences[-1] == ""
    language = domains.StoryLanguage()
    assert all(language.check(story).ok for story in stories[:-1])
    assert torch.equal(domains.training_text(GENERAL), harness.text_ids("train"))
    with pytest.raises(ValueError, match="name='poems'.*'stories'"):
        domains.training_text("poems")


@pytest.mark.parametrize("name", [STORIES, SENTENCES])
def test_unseen_windows_are_unseen(name: str):
    known = {line for seed in range(3) for line in lines_of(domains.training_text(name, seed=seed)) if line}
    windows = domains.unseen_windows(name)
    assert windows.shape == (domains.N_WINDOWS, domains.SEQ_LEN + 1)
    whole = [line for line in lines_of(windows.flatten())[1:-1] if line]
    assert len(whole) > 20 and not known & set(whole)


def test_costs_are_those_of_a_loop(fresh_seed: int):
    model = other_model(fresh_seed)
    windows = domains.unseen_windows(STORIES)
    with torch.no_grad():
        log_probs = model(windows[:, :-1]).double().log_softmax(-1)
    want = -log_probs.gather(2, windows[:, 1:, None]).mean()
    assert domains.costs_by_text(model)[STORIES] == pytest.approx(float(want), rel=1e-4)


def test_reading_on_leaves_the_model_alone_and_looks_when_told(fresh_seed: int):
    model = domains.fresh_model(fresh_seed)
    before = copy.deepcopy(model.state_dict())
    text = domains.training_text(STORIES, 4, fresh_seed)
    pupil, seen = domains.read_on(model, [text], [1.0], fresh_seed, 6, 3e-3, watch=lambda pupil: 1.0, watch_every=2)
    assert seen == [1.0, 1.0, 1.0]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    again, _ = domains.read_on(model, [text], [1.0], fresh_seed, 6, 3e-3)
    for name, weight in again.state_dict().items():
        assert torch.allclose(weight, pupil.state_dict()[name], atol=1e-6), name
    assert domains.cost_of(pupil, STORIES) < domains.cost_of(model, STORIES)


def test_the_line_between_two_models(fresh_seed: int):
    first, second = other_model(fresh_seed), other_model(fresh_seed + 5)
    for share in (0.0, 0.25, 1.0):
        mean = domains.averaged(first, second, share).state_dict()
        for name, weight in first.state_dict().items():
            want = (1 - share) * weight.double() + share * second.state_dict()[name].double()
            assert torch.allclose(mean[name].double(), want, atol=1e-6)
    narrow = GPT(harness.replace(harness.BASE, n_layers=1))
    with pytest.raises(ValueError, match="second.config"):
        domains.averaged(first, narrow)


def test_two_models_asked_together_are_never_worse_than_their_mean(fresh_seed: int):
    first, second = other_model(fresh_seed), other_model(fresh_seed + 5)
    windows = domains.unseen_windows(STORIES)[:2, :-1]
    with torch.no_grad():
        both = domains.together(first, second)(windows).exp()
        want = (first(windows).softmax(-1) + second(windows).softmax(-1)) / 2
    assert torch.allclose(both, want, atol=1e-5)
    costs = [domains.cost_of(model, STORIES) for model in (first, second, domains.together(first, second))]
    assert costs[2] <= (costs[0] + costs[1]) / 2 + 1e-5  # -log is convex


def test_few_steps_give_every_measure(fresh_seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adaptation, "base_model", other_model)
    monkeypatch.setattr(adaptation, "SHARES", (0.0, 0.5, 1.0))
    assert set(adaptation.scarcity(4, fresh_seed, steps=2)) == {"general", "continued", "alone"}
    assert set(adaptation.replay(0.5, fresh_seed, steps=1)) == {"stories", "documentation", "forgotten"}
    line = adaptation.one_base(fresh_seed, steps=1)
    assert all(len(line[name]) == 3 for name in (STORIES, SENTENCES, "mix"))
    apart = adaptation.two_bases(fresh_seed)
    assert apart["documentation, both asked"] < max(apart[GENERAL])


def test_the_stored_table_says_what_the_lesson_says():
    rows = {row["name"]: row["values"] for row in results.load_table("adaptation")["rows"]}
    assert set(rows) == set(adaptation.QUESTIONS)
    for seed in range(3):
        lead = [rows[f"{n} stories"]["alone"][seed] - rows[f"{n} stories"]["continued"][seed] for n in (4, 16, 64)]
        assert lead[0] > lead[1] > 0.1 and lead[2] > 0.1
        forgotten = [rows[f"replay {share}%"]["forgotten"][seed] for share in (0, 5, 20, 50)]
        assert forgotten[0] > 1.5 and forgotten[2] < forgotten[0] / 2 and sorted(forgotten, reverse=True) == forgotten
        near, far = rows["line, one base"]["mix"][seed], rows["line, two bases"][GENERAL][seed]
        assert near[4] < min(near[0], near[8]) - 0.1 and far[4] > max(far[0], far[8]) + 1
