"""The files that deploy chatui are valid, agree with each other, and name settings and paths that exist."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from chatui import server
from chatui.metrics import Metrics
from chatui.remote import backend_spec
from chatui.settings import AppSettings
from tests.fakes import FakeBackend

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
YAML_FILES = [ROOT / "compose.yaml", *sorted(DEPLOY.rglob("*.yaml"))]
TEXTS = [ROOT / "Dockerfile", *YAML_FILES, *(path for path in sorted(DEPLOY.rglob("*")) if path.suffix != ".yaml")]
PORT = str(AppSettings.model_fields["port"].default)
KUBERNETES_VERSION = "1.34"


def path_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def resources() -> dict[tuple[str, str], dict[str, Any]]:
    """All objects of deploy/kubernetes by (kind, name)."""
    found = [each for path in KUBERNETES for each in yaml.safe_load_all(path.read_text()) if "metadata" in each]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


RESOURCES = resources()


def containers(kind: str = "Deployment") -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for (found, _), each in RESOURCES.items():
        if found == kind:
            pod = each["spec"]["template"]["spec"]
            yield from ((pod, container) for container in pod["containers"])


# What all files name.


@pytest.mark.parametrize("path", [path for path in TEXTS if path.is_file()], ids=path_id)
def test_variables_are_settings(path: Path) -> None:
    names = set(re.findall(r"\bCHATUI_([A-Z_]+)\b", path.read_text()))
    assert {name.lower() for name in names} <= AppSettings.model_fields.keys()


@pytest.mark.parametrize("path", YAML_FILES, ids=path_id)
def test_images_are_pinned(path: Path) -> None:
    for image in re.findall(r"^\s*image: (\S+)", path.read_text(), re.MULTILINE):
        tag = image.partition(":")[2]
        assert tag
        assert tag != "latest"


def test_backends_are_as_the_setting_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["page"]["environment"]
    data = RESOURCES["ConfigMap", "chatui-page"]["data"]
    for value, key in ((compose["CHATUI_BACKEND"], "ENGINE_API_KEY"), (data["CHATUI_BACKEND"], "VLLM_API_KEY")):
        monkeypatch.setenv(key, "key-of-the-engine")
        monkeypatch.setenv("CHATUI_BACKEND", value)
        [spec] = backend_spec.from_settings(AppSettings())
        assert spec.replicas[0].headers == {"Authorization": "Bearer key-of-the-engine"}


# The image.


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, by its name."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[list(found)[-1]].append((name, re.sub(r"\s+", " ", rest.strip())))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage after those of the stages that it is made from."""
    own = stages()[stage]
    parent = own[0][1].split(" ")[0]
    return [*(lineage(parent) if parent in stages() else []), *own]


@pytest.mark.parametrize("target", ["page", "cpu", "cuda"])
def test_the_image_runs_as_a_user_and_tells_its_health(target: str) -> None:
    instructions = lineage(target)
    found = dict(instructions)
    assert found["USER"] == "10001:10001"
    assert instructions[-1][0] == "USER", "nothing is done as root after it"
    assert json.loads(found["ENTRYPOINT"]) == ["python", "app.py"]
    assert json.loads(found["CMD"]) == ["run"]
    assert found["EXPOSE"] == PORT
    assert "CMD [" in found["HEALTHCHECK"]
    assert f"127.0.0.1:{PORT}/livez" in found["HEALTHCHECK"]
    environment = " ".join(rest for name, rest in instructions if name == "ENV")
    assert f"CHATUI_PORT={PORT}" in environment
    for folder in re.findall(r"(?:HOME|_DIR)=(\S+)", environment):
        assert folder.startswith(found["VOLUME"][2:-2]), "the root may be read-only"


def test_the_image_leaves_nothing_of_its_making() -> None:
    [(_, python)] = [(name, rest) for name, rest in stages()[""] if rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+", python)
    for name, rest in (each for stage in stages().values() for each in stage):
        assert name != "ADD"
        if name == "RUN":
            assert rest.count("pip install") == rest.count("--no-cache-dir")
            assert ("apt-get install" in rest) == rest.endswith("rm -rf /var/lib/apt/lists/*")


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source.removeprefix("./")
        for stage in stages().values()
        for name, rest in stage
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert any(fnmatch.fnmatch("chatui/__pycache__", rule) for rule in rules[1:])


def test_without_pytorch_the_memory_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    [device] = server._machine("int8").devices
    assert (device.is_cpu, device.bandwidth, device.kv_dtype) == (True, 0.0, "int8")
    assert 0 < device.free <= device.total


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([program("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert not done.stdout, done.stdout


# Compose.


def test_compose_is_closed_and_whole() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    page = services["page"]
    assert page["build"]["target"] in stages()
    assert page["read_only"]
    assert page["cap_drop"] == ["ALL"]
    assert page["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert page["volumes"] == ["page:/data"]
    assert [name for name, service in services.items() if service.get("ports")] == ["page"]
    assert services["db"]["networks"] == ["back"]
    assert compose["networks"]["back"]["internal"]
    named = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert named == compose["volumes"].keys()
    url = page["environment"]["CHATUI_DATABASE_URL"]
    database = services["db"]["environment"]
    assert (
        url
        == f"postgresql://{database['POSTGRES_USER']}:{database['POSTGRES_PASSWORD']}@db:5432/{database['POSTGRES_DB']}"
    )


def test_each_engine_of_compose_is_where_the_page_looks() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    environment = services["page"]["environment"]
    host, port, key = re.findall(r"//(\w+):(\d+)/v1,.*key-env=(\w+)", environment["CHATUI_BACKEND"])[0]
    engines = [service for service in services.values() if "profiles" in service]
    assert len(engines) == 2
    for engine in engines:
        assert engine["networks"]["back"]["aliases"] == [host]
        assert f"--port={port}" in engine["command"]
        assert f"127.0.0.1:{port}/health" in engine["healthcheck"]["test"][-1]
        assert environment[key] in engine["environment"].values()


# Kubernetes.


@pytest.mark.parametrize("key", RESOURCES, ids=lambda key: "-".join(key))
def test_objects_have_the_fields_of_their_kind(key: tuple[str, str]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(RESOURCES[key], KUBERNETES_VERSION, strict=True)


def test_the_kustomization_has_every_file() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in KUBERNETES}


@pytest.mark.parametrize("name", ["chatui-page", "vllm"])
def test_selectors_and_ports_agree(name: str) -> None:
    deployment, service = RESOURCES["Deployment", name]["spec"], RESOURCES["Service", name]["spec"]
    policy = RESOURCES["NetworkPolicy", name]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [deployment["selector"]["matchLabels"], service["selector"], policy["podSelector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors)
    [container] = deployment["template"]["spec"]["containers"]
    [port] = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    assert deployment["template"]["spec"]["enableServiceLinks"] is False


def test_the_page_answers_probes_which_ask_for_the_address_of_its_pod(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = dict(re.findall(r"(CHATUI_\w+)=(\S+)", " ".join(rest for name, rest in lineage("page") if name == "ENV")))
    monkeypatch.delenv("CHATUI_ALLOWED_HOSTS")  # of the tests
    for name, value in {**image, **RESOURCES["ConfigMap", "chatui-page"]["data"]}.items():
        monkeypatch.setenv(name, value)
    settings = AppSettings(data_dir=tmp_path, cache_dir=tmp_path, auth="ada:secret")
    client = TestClient(server.build_app(FakeBackend(), settings))
    _, page = next(containers())
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        answer = client.get(page[probe]["httpGet"]["path"], headers={"Host": f"10.1.2.3:{PORT}"})
        assert answer.status_code == 200


def test_the_page_scales_and_survives_a_drain() -> None:
    scaler, budget = (
        RESOURCES["HorizontalPodAutoscaler", "chatui-page"],
        RESOURCES["PodDisruptionBudget", "chatui-page"],
    )
    page = RESOURCES["Deployment", "chatui-page"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == page["metadata"]["name"]
    assert "replicas" not in page["spec"], "an apply would undo what the scaler did"
    assert scaler["spec"]["minReplicas"] > budget["spec"]["maxUnavailable"]
    assert budget["spec"]["selector"] == page["spec"]["selector"]


def test_containers_may_do_little() -> None:
    for pod, container in containers():
        assert not pod["automountServiceAccountToken"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    pod, page = next(containers())
    assert page["securityContext"]["readOnlyRootFilesystem"]
    assert (
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == dict(lineage("page"))["USER"]
    )
    mounts = {mount["mountPath"] for mount in page["volumeMounts"] if not mount.get("readOnly")}
    assert mounts == {"/data", "/tmp"}


def test_the_page_reaches_its_backend_with_a_key_that_both_have() -> None:
    page, vllm = (container for _, container in containers())
    backend = RESOURCES["ConfigMap", "chatui-page"]["data"]["CHATUI_BACKEND"]
    host, port, key = re.findall(r"//(\w+):(\d+)/v1,.*key-env=(\w+)", backend)[0]
    assert RESOURCES["Service", host]["spec"]["ports"][0]["port"] == int(port)
    keys = [{each["name"]: each.get("valueFrom") for each in container["env"]}[key] for container in (page, vllm)]
    assert keys[0] == keys[1] is not None
    egress = RESOURCES["NetworkPolicy", "chatui-page"]["spec"]["egress"]
    assert [{"protocol": "TCP", "port": int(port)}] in [rule["ports"] for rule in egress]


def test_the_ingress_has_the_settings_of_nginx() -> None:
    ingress = RESOURCES["Ingress", "chatui"]
    prefix = "nginx.ingress.kubernetes.io/"
    annotations = {key.removeprefix(prefix): value for key, value in ingress["metadata"]["annotations"].items()}
    nginx = (DEPLOY / "nginx" / "chatui.conf").read_text()
    assert f"client_max_body_size {annotations['proxy-body-size']};" in nginx
    assert f"proxy_buffering {annotations['proxy-buffering']};" in nginx
    assert "proxy_read_timeout 1h;" in nginx
    assert annotations["proxy-read-timeout"] == "3600"
    assert annotations["affinity"] == "cookie"
    [rule] = ingress["spec"]["rules"]
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["port"]["name"] == RESOURCES["Service", backend["name"]]["spec"]["ports"][0]["name"]


# Watching.


def metric_names() -> set[str]:
    """The names of all series that a page server has."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    families = Metrics().registry.collect()
    return {family.name + ending for family in families for ending in endings.get(family.type, [""])}


@pytest.mark.parametrize("name", ["grafana/chatui.json", "prometheus/alerts.yaml"])
def test_every_metric_that_is_watched_exists(name: str) -> None:
    named = set(re.findall(r"\b(?:chatui:|process_)\w+", (DEPLOY / name).read_text()))
    assert len(named) > 5
    assert named <= metric_names()


def test_every_alert_says_what_it_is_about() -> None:
    [group] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])


def test_prometheus_takes_the_alerts_and_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "chatui.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    filled = [query.replace("$__rate_interval", "5m").replace("$model", ".*") for query in queries]
    rules = [{"record": f"query{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "queries.yaml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    files = [DEPLOY / "prometheus" / "alerts.yaml", tmp_path / "queries.yaml"]
    done = subprocess.run([program("promtool"), "check", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "chatui.json").read_text())
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    names = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) <= names


# Ray, systemd and proxies.


def test_a_page_has_ten_seconds_more_than_its_replies_before_it_is_killed() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["page"]
    default = AppSettings.model_fields["graceful_timeout"].default
    assert int(compose["stop_grace_period"].removesuffix("s")) >= default + 10
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "systemd" / "chatui.service").read_text(), re.MULTILINE)
    assert int(seconds) >= default + 10
    pod, page = next(containers())
    waits = int(RESOURCES["ConfigMap", "chatui-page"]["data"]["CHATUI_GRACEFUL_TIMEOUT"])
    _, slept = page["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] >= waits + int(slept) + 10


def test_a_proxy_before_compose_is_believed_because_nobody_else_reaches_the_port() -> None:
    page = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["page"]
    assert page["environment"]["CHATUI_FORWARDED_ALLOW_IPS"] == "*"
    assert all(port.startswith("127.0.0.1:") for port in page["ports"])


def test_ray_scales_replicas_and_keeps_conversations_together() -> None:
    configuration = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())
    [application] = configuration["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    for model in application["args"]["llm_configs"]:
        deployment = model["deployment_config"]
        scaling = deployment["autoscaling_config"]
        assert scaling["min_replicas"] < scaling["max_replicas"]
        assert scaling["target_ongoing_requests"] < deployment["max_ongoing_requests"]
        router = deployment["request_router_config"]
        assert router["request_router_class"] == "ray.serve.llm.request_router.PrefixCacheAffinityRouter"
        assert router["request_router_kwargs"]["do_eviction"]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "chatui.service").read_text()
    unit = tmp_path / "chatui.service"
    unit.write_text(text.replace("/opt/chatui/.venv/bin/python", sys.executable))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    nginx, openssl = program("nginx"), program("openssl")
    certificate, key = tmp_path / "chat.crt", tmp_path / "chat.key"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    subprocess.run([openssl, *made, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    server = (DEPLOY / "nginx" / "chatui.conf").read_text()
    server = server.replace("/etc/ssl/chat.crt", str(certificate)).replace("/etc/ssl/chat.key", str(key))
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{server}\n}}\n"
    )
    subprocess.run([nginx, "-t", "-e", "stderr", "-p", tmp_path, "-c", configuration], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["Caddyfile", "several-servers.Caddyfile"])
def test_caddy_takes_its_file(name: str) -> None:
    file = DEPLOY / "caddy" / name
    subprocess.run([program("caddy"), "adapt", "--config", file, "--validate"], check=True, capture_output=True)
