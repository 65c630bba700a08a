"""Every objective, and the sets that share encodings, under the shipped contract."""

import pytest

from webssl_toolbox import testing

from . import cases

ALL = cases.OBJECTIVES | dict(declip=cases.DECLIP, everything=cases.EVERYTHING)
each = pytest.mark.parametrize("case", ALL.values(), ids=ALL)


@each
def test_gradients(case):
    testing.check_gradients(case)


@each
def test_one_call_per_tower(case):
    testing.check_one_call_per_tower(case)


@each
def test_views_apart_equal_views_together(case):
    testing.check_views_apart(case)


@each
def test_a_skipped_step_changes_nothing(case):
    testing.check_skipped_step(case)


@each
def test_state_dict_is_complete(case):
    testing.check_state_round_trip(case)


def test_two_ranks_equal_one():
    """Sharded ones in ``test_ranks.py``."""
    testing.check_ranks(list(ALL.values()), strategies=["ddp"])
