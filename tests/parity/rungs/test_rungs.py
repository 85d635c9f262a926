"""Single faults in float32, and the lines that must notice them."""

from unittest import mock

import numpy as np
import pytest
import torch

from parity.faults import models
from parity.reference import train, vit
from parity.rungs import initialisation, update
from parity.sides import theirs
from parity.sides.cases import Case, Recipe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ending", ["pos_embedding", "cls", "registers", "probe"])
def test_decay_on_any_parameter_that_is_no_kernel_is_noticed(ending):
    decayed = train.decayed

    def more(model):
        named = model.named_parameters()
        return decayed(model) + [p for name, p in named if name.endswith(ending)]

    cases = update.undecayed_cases(Case(precision="float32"))
    at = {"cls": 1, "registers": 1}.get(ending, 0)
    with mock.patch.object(train, "decayed", more):
        *_, last = update._update_errors(cases[at], Recipe())
    line = last.line("last step")
    assert line.detail.endswith(ending)
    assert line.factor > 20


def test_a_pooled_register_changes_only_models_that_have_registers():
    base = Case(precision="float32", depth=1)
    for pool in ("gap", "map"):
        for registers in (0, 2):
            case = base.but(pool_type=pool, registers=registers)
            sound = theirs.forward(case, None)
            fault = models._pooled_register
            with mock.patch.object(vit, "patch_tokens", fault):
                found = theirs.forward(case, None)
            same = np.array_equal(found["logits"], sound["logits"])
            assert same == (registers == 0)


def test_limits_are_those_of_the_references_own_draws():
    """Every kernel of a wide model comes within 1 % of its limit, and not beyond."""
    case = Case(width=96, mlp_dim=160, rep_size=80, depth=1)
    state = theirs.make_reference(case).state_dict()
    for name, x in theirs.by_our_names(state, case).items():
        found = initialisation.limit(name, x.shape)
        if found is not None:
            assert 0.98 < np.abs(x).max() / found[1] <= 1 + 1e-6, name
    assert torch.count_nonzero(state["head.weight"]) == 0
