"""The handlers of setting up: list the contexts, choose one, as a group of `methods.Methods`."""

# ruff: noqa: ARG002 - handlers have one signature, whether they need all of it or not

import os

import anyio
from anyio import to_thread

from kraynd.calls import Call
from kraynd.connection import Connection
from kraynd.kube.kubeconfig import list_contexts
from krayne import messages, paths
from krayne.config import KrayneSettings, load_krayne_settings, save_krayne_settings
from krayne.errors import ConfigValidationError, KubeConfigError

CONTACT_LIMIT = 20.0  # seconds; below every deadline of a call


class SetupMethods:
    """`setup.contexts` and `setup.use`, over the connection they change."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def daemon_path(self, call: Call, params: messages.PathParams) -> messages.PathTaken:
        """Take over the caller's PATH where it has the credential plugin that ours lacks."""
        before = self._connection.state
        taken = self._connection.learn_path(params.path)
        if taken:
            with anyio.move_on_after(CONTACT_LIMIT):
                await self._connection.changed(before)
        return messages.PathTaken(taken=taken)

    async def setup_contexts(self, call: Call, params: messages.ContextsParams) -> messages.ContextList:
        """The contexts there are, and which is used."""
        settings = _settings()
        if params.kubeconfig:
            settings = KrayneSettings(params.kubeconfig, settings.kube_context)
        files, found = await to_thread.run_sync(list_contexts, settings, os.environ)
        used = settings.kube_context or next((one.name for one in found if one.current), "")
        views = tuple(
            messages.ContextView(
                name=one.name,
                server=one.server,
                user=one.user,
                namespace=one.namespace,
                current=one.current,
                used=one.name == used,
            )
            for one in found
        )
        return messages.ContextList(files=files, contexts=views)

    async def setup_use(self, call: Call, params: messages.UseParams) -> messages.UseResult:
        """Save the choice and connect by it. Raises KubeConfigError for a context that is not there."""
        before = _settings()
        chosen = KrayneSettings(params.kubeconfig or before.kubeconfig, params.context or before.kube_context)
        files, found = await to_thread.run_sync(list_contexts, chosen, os.environ)
        names = [one.name for one in found]
        if chosen.kube_context and chosen.kube_context not in names:
            raise KubeConfigError(
                f"there is no context {chosen.kube_context} in {', '.join(files)}",
                hint=f"it has {', '.join(names) or 'none'}",
            )
        await to_thread.run_sync(save_krayne_settings, chosen)
        tries = self._connection.tries
        self._connection.reload()
        with anyio.move_on_after(min(params.wait_ms / 1000, CONTACT_LIMIT)):
            await self._connection.settled(tries)
        state, link = self._connection.state, self._connection.link
        return messages.UseResult(
            kubeconfig=chosen.kubeconfig or "",
            context=chosen.kube_context or "",
            settings=paths.settings_file(),
            world=messages.WorldView(
                context=link.world.context if link else "",
                server=link.world.server if link else "",
                condition=state.condition,
                reason=state.reason,
                hint=state.hint,
                since=state.since or None,
            ),
        )


def _settings() -> KrayneSettings:
    """The saved ones; a malformed file is what setting up is there to mend."""
    try:
        return load_krayne_settings()
    except ConfigValidationError:
        return KrayneSettings()
