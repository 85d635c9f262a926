"""The count of evaluations without a better one, by hand."""

from vitjax.checkpoints.patience import Patience


def counted(values, kept=None, metric="val/prec@1", mode="max"):
    patience = Patience(metric, mode, 2, kept)
    for step, value in values:
        patience.count(step, value)
    return patience


def test_two_without_a_better_one():
    rising = [(1, 0.1), (2, 0.3), (3, 0.3), (4, 0.2)]
    assert counted(rising[:3]).over() is None
    over = counted(rising).over()
    assert (
        over
        == "val/prec@1 was not better in the last 2 evaluations than the 0.3000 of step 2"
    )
    assert counted(rising, mode="min").over().endswith("than the 0.1000 of step 1")
    never = counted([(1, float("nan")), (2, float("nan"))]).over()
    assert never == "val/prec@1 was not finite in the last 2 evaluations"


def test_the_count_of_a_checkpoint_goes_on_for_the_same_metric_only():
    kept = counted([(1, 0.3), (2, 0.2)]).state()
    assert (
        counted([(2, 0.9), (3, 0.1)], kept).over() is not None
    )  # 2 is counted already
    for other in ({"metric": "val/loss"}, {"mode": "min"}):
        assert counted([(3, 0.1)], kept, **other).over() is None
