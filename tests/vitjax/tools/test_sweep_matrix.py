"""The combinations of a sweep: grids, draws, and the names of runs."""

import math

import numpy as np
import pytest
from scipy import stats

from vitjax.tools import sweep_matrix


def test_combinations_are_the_product_in_order():
    assert sweep_matrix.grid(["a=1,2", "crop=tf,beta(1, 2)"]) == [
        {"a": "1", "crop": "tf"},
        {"a": "1", "crop": "beta(1, 2)"},
        {"a": "2", "crop": "tf"},
        {"a": "2", "crop": "beta(1, 2)"},
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[1,2],{'a': (3, 4)}", ["[1,2]", "{'a': (3, 4)}"]),
        ("'a,b',\"c,(\"", ["'a,b'", '"c,("']),
        ("\"keep('x', 'y')|op(1,2)\",", ["\"keep('x', 'y')|op(1,2)\"", ""]),
    ],
)
def test_commas_in_brackets_or_quotes_do_not_split(text, values):
    if "" in values:
        with pytest.raises(ValueError, match="--matrix must be"):
            sweep_matrix.parse([f"k={text}"])
    else:
        assert sweep_matrix.parse([f"k={text}"]) == {"k": values}


def test_a_matrix_that_cannot_be_read_is_one_sentence():
    for item in ("a", "a=", "=1", "a=1,,2", "a=1,1"):
        with pytest.raises(ValueError, match="--matrix"):
            sweep_matrix.grid([item])
    with pytest.raises(ValueError, match="needs --random"):
        sweep_matrix.grid(["config.lr=log(1e-4,1e-2)"])
    for item in ("log(0,1)", "log(-1,1)", "uniform(2,1)", "int(1,2.5)", "log(a,b)"):
        with pytest.raises(ValueError, match="A < B"):
            sweep_matrix.draws([f"x={item}"], 1, 0)


def test_draws_have_the_distribution_that_is_named():
    matrix = [
        "lr=log(1e-5,1e-2)",
        "p=uniform(0,0.5)",
        "n=int(2,4)",
        "crop=tf,beta(1,2)",
    ]
    drawn = sweep_matrix.draws(matrix, 2000, 7)
    assert len(drawn) == 2000
    logs = [math.log10(float(row["lr"])) for row in drawn]
    assert stats.kstest(logs, stats.uniform(-5, 3).cdf).pvalue > 1e-3
    shares = [float(row["p"]) for row in drawn]
    assert stats.kstest(shares, stats.uniform(0, 0.5).cdf).pvalue > 1e-3
    for name, values in (("n", {"2", "3", "4"}), ("crop", {"tf", "beta(1,2)"})):
        found, counts = np.unique([row[name] for row in drawn], return_counts=True)
        assert set(found) == values
        assert stats.chisquare(counts).pvalue > 1e-3


def test_more_draws_begin_with_the_same_ones():
    """So a sweep can be resumed, and made longer."""
    matrix = ["config.lr=log(1e-5,1e-2)", "config.wd=uniform(0,1)"]
    assert sweep_matrix.draws(matrix, 9, 3)[:5] == sweep_matrix.draws(matrix, 5, 3)
    assert sweep_matrix.draws(matrix, 5, 3) != sweep_matrix.draws(matrix, 5, 4)
    assert len(sweep_matrix.draws(["batch=64,128"], 50, 0)) == 2  # each once


def test_a_config_key_is_an_override_and_the_rest_arguments_of_the_file():
    chosen = {
        "layer": "4",
        "config.lr": "1e-3",
        "config.model.width": "16",
        "head": "2",
    }
    expected = ("layer=4,head=2", ["lr=1e-3", "model.width=16"])
    assert sweep_matrix.split(chosen) == expected
    sweep_matrix.check_overrides(chosen, ["lrs=1", "model.widths=2"])
    with pytest.raises(ValueError, match=r"--config\.lr give the same key"):
        sweep_matrix.check_overrides(chosen, ["lr=3"])


def test_names_of_runs_are_short_distinct_and_without_slashes():
    rows = sweep_matrix.grid(
        ["layer=4", "config.model.variant=S/16,S_16", f"config.input.pp=a,{'b' * 90}"]
    )
    found = sweep_matrix.names(rows)
    assert found[0] == "layer=4,variant=S_16,pp=a"
    assert found[2].startswith("layer=4,variant=S_16,pp=a-")
    assert len(set(found)) == 4
    assert max(map(len, found)) <= 80
    both = sweep_matrix.names([{"config.a.p": "1", "config.b.p": "2", "config.c": "3"}])
    assert both == ["config.a.p=1,config.b.p=2,c=3"]
