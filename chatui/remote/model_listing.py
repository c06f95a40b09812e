"""The models of a backend as the page and the API list them, from what its servers tell."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from chatui.chat import ModelInfo, ModelStatus, State, TemplateFacts
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_
from chatui.remote.backend_spec import BackendSpec
from chatui.remote.dialects import DIALECTS
from chatui.remote.probe import RemoteModel, ServerReport
from chatui.remote.replica import Replica
from chatui.remote.request_body import Adjustments, controls, unsupported_settings
from chatui.server_facts import ServerFacts


class ModelListing:
    """The `statuses` of a backend's models, and the servers' `ids` of them by name.

    A model stays listed after its servers have stopped answering, because conversations remember its name. Until one
    has answered, a model stands for them whose name is the backend's.
    """

    def __init__(self, spec: BackendSpec, defaults: GenerationSettings) -> None:
        """`defaults` are those of the models."""
        self._spec, self._defaults = spec, defaults
        self.statuses: list[ModelStatus] = []
        self.ids: dict[str, str] = {}

    def update(self, replicas: Sequence[Replica], adjustments: Mapping[str, Adjustments]) -> None:
        """Read what the servers have told last. Thread-safe: both lists are replaced as a whole."""
        found: dict[str, ModelStatus] = {}
        ids: dict[str, str] = {}
        for replica in sorted(replicas, key=lambda each: not each.is_up):
            for model in replica.report.models if replica.report else ():
                name = self.name(model.id)
                if name not in found and replica.report is not None:
                    ids[name] = model.id
                    found[name] = self._status(name, model, replica, adjustments.get(model.id, Adjustments()))
        self.ids = ids
        self.statuses = list(found.values()) or [self._standing_in(replicas)]

    def name(self, id: str) -> str:
        """The name of a model here: a file is named without its folder, and behind the backend's name if it has one."""
        short = PurePath(id).name if id.startswith("/") or id.endswith(".gguf") else id
        short = short.removesuffix(".gguf") or id
        return f"{self._spec.name}/{short}" if self._spec.name else short

    def _standing_in(self, replicas: Sequence[Replica]) -> ModelStatus:
        title = self._spec.title
        problem = next((replica.problem for replica in replicas if replica.problem), "")
        if all(replica.settled.is_set() or replica.problem for replica in replicas) and problem:
            if not any(replica.loading for replica in replicas):
                return ModelStatus(title, "failed", error=self._error(problem), source=title, remote=True)
            return ModelStatus(title, "loading", N_("its server is loading it"), source=title, remote=True)
        if any(replica.report is not None for replica in replicas):
            error = ModelError(f"{title} lists no model.", "Its operator must start one.")
            return ModelStatus(title, "failed", error=error, source=title, remote=True)
        return ModelStatus(title, "loading", N_("asking its server"), source=title, remote=True)

    def _status(self, name: str, model: RemoteModel, replica: Replica, adjustments: Adjustments) -> ModelStatus:
        info = self._info(name, model, replica.report, adjustments) if replica.report else None
        state: State = "ready" if model.loaded else "unloaded"
        known = ModelStatus(name, state, info=info, source=model.id, remote=True, latency=replica.latency)
        if replica.problem and replica.loading:
            return replace(known, state="loading", phase=N_("its server is loading it"), info=None)
        if replica.problem:
            return replace(known, state="failed", error=self._error(replica.problem))
        return known

    def _error(self, problem: str) -> ModelError:
        return ModelError(
            f"{self._spec.title} gives no answer: {problem}.",
            "It is asked again all the time; or choose another model.",
        )

    def _info(self, name: str, model: RemoteModel, report: ServerReport, adjustments: Adjustments) -> ModelInfo:
        dialect = DIALECTS[report.dialect]
        thinking = controls(dialect, model.template, model.thinks)
        unsupported = unsupported_settings(dialect, adjustments.left_out)
        server = ServerFacts(
            report.software,
            unsupported,
            bool(dialect.continues),
            bool(dialect.prompt),
            dialect.token_ids,
        )
        template = TemplateFacts(
            model.template,
            "native",
            alternates=adjustments.folded_roles,
            thinks=model.thinks or bool(thinking.switch),
            tools=False,
            controls=thinking,
        )
        return ModelInfo(
            name,
            model.precision,
            model.parameters,
            model.weight_bytes,
            model.context,
            self._spec.title,
            self._defaults,
            slots=self._spec.max_requests,
            read_bytes=model.weight_bytes,
            revision=model.revision,
            source=model.id,
            template=template,
            server=server,
        )
