"""Prefect's runner, made to outlive an outage of its server and to end its runs in order."""

import asyncio
import logging
from typing import Any, Self

import httpx
from prefect.runner import Runner

logger = logging.getLogger(__name__)


class PatientRunner(Runner):
    """A runner that waits for a server that is away, as the stages below it do.

    Prefect's own gives up after a few polls, and ends the runs with it; it also stops looking for cancellations.
    """

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._away = self._was_away = False
        self._loop = asyncio.get_running_loop()
        poll = self._scheduled_run_poller._get_and_submit_flow_runs

        async def patiently(*arguments: Any) -> None:
            try:
                if self._was_away:
                    await self._cancel_what_is_to_be()
                await poll(*arguments)
            except httpx.TransportError:
                if not self._away:
                    logger.warning("the Prefect server does not answer; runs go on, and new ones wait for it")
                self._away = self._was_away = True
            else:
                self._away = False

        self._scheduled_run_poller._get_and_submit_flow_runs = patiently  # type: ignore[assignment, method-assign]
        return self

    async def _cancel_what_is_to_be(self) -> None:
        """Do what Prefect's observer does not do any more once it has lost the server."""
        for identity in self._process_manager.flow_run_ids():
            run = await self._client.read_flow_run(identity)
            if run.state is not None and run.state.is_cancelling():
                await self._cancellation_manager.cancel(run)

    def handle_sigterm(self, *_: Any) -> None:
        """Cancel what runs, then stop; Prefect's own handler does not wait for that, and the runs would crash."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.astop(), self._loop)
