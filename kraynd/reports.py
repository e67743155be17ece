"""What the services in the head pods say of themselves, asked through the tunnel once the head is Ready.

Asks only until every service has come to an end of its installation, so that an idle cluster costs no connection.
Silence is no fault: a pod may carry no status server.
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus

import anyio

from kraynd.core.backoff import Backoff
from kraynd.core.bootstrap import STATUS_PATH, ServiceReport, parse_service_report
from kraynd.core.model import ClusterKey, PodTarget
from kraynd.forwards import Opener
from kraynd.podhttp import ask
from krayne.errors import KrayneError

log = logging.getLogger("kraynd.reports")

ASK_EVERY = 3.0  # seconds while something installs
AFTER_FAILURE = 60.0  # seconds until the next question about a service that failed to install
SILENCE = Backoff(base=60.0, cap=600.0, jitter=0.0)  # between questions to a pod that cannot be reached
# ... and to one that can, and has no status server: that begins with the container, or not at all.
NOBODY = Backoff(base=60.0, cap=600.0, factor=10.0, jitter=0.0)


class _Course:
    """One cluster's questions: whom to ask, and when next."""

    def __init__(self, opener: Opener, target: PodTarget) -> None:
        self.opener = opener
        self.target = target
        self.due = 0.0
        self.unanswered = 0


class Reports:
    """`latest` holds the newest report of every cluster that was asked; `on_change` hears of differences."""

    def __init__(self, on_change: Callable[[ClusterKey], None]) -> None:
        self.latest: dict[ClusterKey, Mapping[str, ServiceReport]] = {}
        self._on_change = on_change
        self._courses: dict[ClusterKey, _Course] = {}
        self._news = anyio.Event()

    def aim(self, key: ClusterKey, opener: Opener | None, target: PodTarget | None) -> None:
        """The Ready head pod to ask, or none."""
        course = self._courses.get(key)
        if opener is None or target is None:
            if course is not None:
                del self._courses[key]
                self._learn(key, None)
            return
        if course is None or course.target.uid != target.uid or course.opener is not opener:
            self._courses[key] = _Course(opener, target)
            self._learn(key, None)
            self._news.set()

    async def run(self) -> None:
        """Ask whoever is due, until cancelled."""
        while True:
            now = anyio.current_time()
            for key, course in list(self._courses.items()):
                if course.due <= now and self._courses.get(key) is course:  # it may go while another is asked
                    await self._ask(key, course)
            next_due = min((course.due for course in self._courses.values()), default=float("inf"))
            with anyio.move_on_after(max(0.0, next_due - anyio.current_time())):
                await self._news.wait()
                self._news = anyio.Event()

    async def _ask(self, key: ClusterKey, course: _Course) -> None:
        curve = SILENCE
        report: Mapping[str, ServiceReport] | None = None
        try:
            status, body = await ask(course.opener, course.target, STATUS_PATH)
            curve = NOBODY
            report = parse_service_report(body) if status == HTTPStatus.OK else None
        except (KrayneError, TimeoutError) as error:
            log.debug("no service report from %s: %s", course.target.pod, error)
        if self._courses.get(key) is not course:
            return
        now = anyio.current_time()
        if report is None:
            course.unanswered += 1
            course.due = now + curve.delay(course.unanswered, 0.0)
            self._learn(key, {})
            return
        course.unanswered = 0
        states = {one.state for one in report.values()}
        course.due = now + (ASK_EVERY if "installing" in states else AFTER_FAILURE)
        if states <= {"running"}:
            course.due = float("inf")
        self._learn(key, report)

    def _learn(self, key: ClusterKey, report: Mapping[str, ServiceReport] | None) -> None:
        if self.latest.get(key) == report:
            return
        if report is None:
            del self.latest[key]
        else:
            self.latest[key] = report
        self._on_change(key)
