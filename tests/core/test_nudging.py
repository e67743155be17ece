"""When the operator is told of a head it overlooks: never one that is there, ever less often, and then no more."""

from itertools import pairwise

import msgspec
import pytest

from kraynd.core.nudging import AFTER, NUDGE_ANNOTATION, lacks_head, nudge
from kraynd.core.plan import Patch, plan
from tests.core.jsonpatch import apply_patch
from tests.core.rays import WALL, config, inputs, live, pod, settled


def test_a_head_that_is_there_in_any_state_is_not_missing() -> None:
    assert lacks_head(live(), [])
    assert lacks_head(live(), [pod("w", group="worker")])
    assert not lacks_head(live(), [pod("h")])
    assert not lacks_head(live(), [pod("h", deleting=True)])
    assert not lacks_head(None, [])


@pytest.mark.parametrize("field", [{"suspend": True}, {"managedBy": "kueue.x-k8s.io/multikueue"}])
def test_who_ought_to_have_no_head_lacks_none(field: dict[str, object]) -> None:
    made = live()
    made["spec"] |= field
    assert not lacks_head(made, [])


def test_the_words_come_ever_less_often_and_end() -> None:
    said: list[tuple[float, str]] = []
    now: float | None = 0.0
    while now is not None:
        word, again = nudge(WALL, WALL + now)
        said.append((now, word))
        now = None if again is None else now + again
    assert [at for at, _ in said] == [0.0, *AFTER]
    assert said[0][1] == ""
    assert len({word for _, word in said}) == len(said)
    gaps = [later - sooner for sooner, later in pairwise(AFTER)]
    assert gaps == sorted(gaps)


def test_a_word_is_written_once_and_disturbs_nothing_else() -> None:
    quiet = inputs(now=live(), wanted=config(), memory=settled())
    step = plan(quiet)
    assert step.action is None
    told = msgspec.structs.replace(quiet, nudge="no head")
    action = plan(told).action
    assert isinstance(action, Patch)
    assert action.fields == (f"metadata.annotations.{NUDGE_ANNOTATION}",)
    assert quiet.live is not None
    after = apply_patch(quiet.live, action.ops)
    assert plan(msgspec.structs.replace(told, live=after)).action is None
    assert plan(msgspec.structs.replace(quiet, live=after)).action is None, "nobody takes it away again"
