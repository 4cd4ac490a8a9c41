"""Which networks are kept, given the scores of successive validations."""

import pytest
import torch

from napari_cmrir.representations.comir.training.validation import RetrievalScore, Selection


class Given:
    """Stands for a `RetrievalTest` whose outcome is known."""

    def __init__(self, retrievals) -> None:
        self.scores = iter([RetrievalScore(retrieval, 1 - retrieval) for retrieval in retrievals])

    def score(self, represent) -> RetrievalScore:
        return next(self.scores)


def networks(value: float) -> dict[str, torch.nn.Module]:
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(layer.weight, value)
    return {"SHG": layer}


def offer_all(selection, retrievals, start=1) -> None:
    for step in range(start, start + len(retrievals)):
        selection.offer(step, networks(step), lambda side, images: images)


@pytest.mark.parametrize(
    ("retrievals", "kept"),
    [
        ([0.5, 0.9, 0.5, 0.7, 0.7, 0.75], 6),  # a lucky one does not decide
        ([0.5, 0.6, 0.7, 0.3, 0.3, 0.3], 3),
        ([0.5, 0.6, 0.7, 0.4, 0.7, 0.7], 3),  # as good a mean later is not better
        ([0.4], 1),
    ],
)
def test_the_best_mean_of_three_decides(retrievals, kept) -> None:
    selection = Selection(networks(0), Given(retrievals))
    offer_all(selection, retrievals)
    assert selection.step == kept
    assert selection.score.retrieval == retrievals[kept - 1]
    assert selection.worse == len(retrievals) - kept
    restored = networks(-1)
    selection.restore(restored)
    assert restored["SHG"].weight.item() == kept


def test_scores_before_a_return_do_not_count() -> None:
    retrievals = [0.5, 0.1, 0.1, 0.6]
    selection = Selection(networks(0), Given(retrievals))
    offer_all(selection, retrievals[:3])
    selection.restore(networks(0))
    offer_all(selection, retrievals[3:], start=4)
    assert selection.step == 4


def test_a_selection_resumes_from_its_state() -> None:
    retrievals = [0.5, 0.9, 0.5, 0.7, 0.7, 0.75]
    whole, first = (Selection(networks(0), Given(retrievals)) for _ in range(2))
    offer_all(whole, retrievals)
    offer_all(first, retrievals[:4])
    second = Selection(networks(0), Given(retrievals[4:]))
    second.load_state(first.state())
    offer_all(second, retrievals[4:], start=5)
    assert (second.step, second.score, second.worse) == (whole.step, whole.score, whole.worse)


def test_without_a_test_the_latest_are_kept() -> None:
    selection = Selection(networks(0), None)
    assert selection.offer(7, networks(7), lambda side, images: images) is None
    assert (selection.step, selection.card()) == (7, {})
