"""What docs/operations.md shows, the image and the audit: each example is read by a parser that knows what may stand there."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from etl.cli import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
ETL = "/srv/market/.venv/bin/etl"


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, language
    return found


# ---- command lines


def parse(arguments):
    """Let click read the words after `etl`, which it refuses with an exception where an option does not exist."""
    command, words = cli, list(arguments)
    parent = None
    while isinstance(command, click.Group):
        if words[0] == "--version":
            return "--version"
        name = words.pop(0)
        parent, command = click.Context(command, info_name=name, parent=parent), command.commands[name]
    command.make_context(command.name, words, parent=parent)
    return command.name


def commands(text):
    """The words after `etl` of every line that calls it: by its name or path, in a container, or as `python -m etl`."""
    for line in text.splitlines():
        words = shlex.split(line.partition(" # ")[0])
        for at, word in enumerate(words):
            if word in {"etl", ".venv/bin/etl", ETL} and (at == 0 or "=" in words[at - 1] or words[at - 1] == "&&"):
                yield words[at + 1 :]
        if words[:2] == ["docker", "run"]:
            yield words[words.index("binance-futures-etl") + 1 :]


def test_every_command_line_of_the_page_is_one():
    seen = [parse([word for word in words if word != ">/dev/null"]) for block in blocks("sh") for words in commands(block)]
    assert len(seen) >= 20
    assert {"update", "status", "verify", "repair", "sql", "backfill", "--version", "create", "drop"} <= set(seen)
    inline = [shlex.split(code)[1:] for code in re.findall(r"`(etl [^`]+)`", PAGE)]
    assert {parse(words) for words in inline if "[" not in words} >= {"update"}


@pytest.mark.parametrize("wrong", [["update", "--for-ever"], ["status", "--max-lag"], ["verify", "--against", "moon"]])
def test_a_wrong_command_line_would_be_seen(wrong):
    with pytest.raises(click.UsageError):
        parse(wrong)


def test_the_exit_codes_are_those_of_the_errors():
    from etl import errors

    codes = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.EtlError)}
    told = {int(code) for cell in re.findall(r"^\| ([0-9][0-9, ]*) \|", PAGE, re.MULTILINE) for code in cell.split(",")}
    assert told == codes | {0, 143}


# ---- systemd

KEYS = {
    "Unit": {"Description", "Wants", "After", "OnFailure"},
    "Service": {
        *("Type", "User", "WorkingDirectory", "Environment", "StateDirectory", "ExecStart", "SuccessExitStatus"),
        *("TimeoutStartSec", "TimeoutStopSec", "NoNewPrivileges", "PrivateTmp", "ProtectSystem", "ReadWritePaths"),
        "StandardOutput",
    },
    "Timer": {"OnCalendar", "RandomizedDelaySec", "Persistent"},
    "Install": {"WantedBy"},
}


def unit(text):
    """Section → list of (key, value); ValueError for whatever systemd would pass over with a warning."""
    sections, section = {}, None
    for line in filter(None, text.splitlines()):
        if heading := re.fullmatch(r"\[([A-Z][a-z]+)\]", line):
            section = heading[1]
            if section in sections or section not in KEYS:
                raise ValueError(line)
            sections[section] = []
            continue
        key, equals, value = line.partition("=")
        if not equals or section is None or key not in KEYS[section] or not value:
            raise ValueError(line)
        sections[section].append((key, value))
    return sections


def units():
    names = ["etl-update.service", "etl-update.timer", "etl-lag.service", "etl-alert@.service"]
    for name in names:
        assert f"`{name}`" in PAGE or f"/{name}`" in PAGE
    return dict(zip(names, blocks("ini"), strict=True))


def test_the_units_have_known_keys_and_start_what_exists():
    read = {name: unit(text) for name, text in units().items()}
    update = dict(read["etl-update.service"]["Service"])
    assert update["Type"] == "oneshot"
    assert update["ExecStart"].startswith(f"{ETL} update ")
    assert read["etl-update.timer"]["Timer"][0][0] == "OnCalendar"
    environment = dict(value.split("=", 1) for key, value in read["etl-update.service"]["Service"] if key == "Environment")
    assert environment["ETL_LAKE"].startswith(update["ReadWritePaths"] + "/")
    assert environment["ETL_STATE_DIR"] == f"/var/lib/{update['StateDirectory']}"
    for name in ("etl-update.service", "etl-lag.service"):
        assert dict(read[name]["Unit"])["OnFailure"] == "etl-alert@%n.service"
        (words,) = commands(dict(read[name]["Service"])["ExecStart"])
        assert parse(words) in {"update", "status"}


@pytest.mark.parametrize(
    "wrong", ["[Unit]\nDescripton=x\n", "[Servce]\n", "Type=oneshot\n", "[Unit]\nAfter\n", "[Unit]\n[Unit]\n"]
)
def test_a_wrong_unit_would_be_seen(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - the line itself is the message
        unit(wrong)


def complaints(folder, texts):
    """What systemd itself says about units whose program is a stand-in that exists here."""
    for name, text in texts.items():
        (folder / name).write_text(text.replace(ETL, "/bin/true").replace("/usr/bin/logger", "/bin/true"))
    paths = [str(folder / name) for name in texts]
    finished = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in finished.stderr.splitlines() if any(path in line for path in paths)]
    return said or finished.returncode


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_reads_the_units(tmp_path):
    assert complaints(tmp_path, units()) == 0
    wrong = {"wrong.service": units()["etl-update.service"].replace("User=", "Usr=")}
    assert "Usr" in complaints(tmp_path, wrong)[0]


# ---- cron

FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def crontab(text):
    """The variables and the jobs of a crontab; ValueError for what cron would refuse, or cut at a `%`."""
    variables, jobs = {}, []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if assigned := re.fullmatch(r"([A-Z_]+)=(\S+)", line):
            variables[assigned[1]] = assigned[2]
            continue
        *times, command = line.split(maxsplit=5)
        if len(times) != 5 or "%" in command:
            raise ValueError(line)
        for time, (low, high) in zip(times, FIELDS, strict=True):
            for part in time.split(","):
                span = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?", part)
                if not span or not all(low <= int(number) <= high for number in span.groups()[:2] if number):
                    raise ValueError(line)
        jobs.append(command)
    return variables, jobs


def test_the_crontab():
    variables, jobs = crontab(blocks("crontab")[0])
    assert {"MAILTO", "ETL_LAKE", "ETL_STATE_DIR", "SHELL"} == set(variables)
    seen = [parse([word for word in words if word != ">/dev/null"]) for job in jobs for words in commands(job)]
    assert seen == ["update", "status", "verify"]


@pytest.mark.parametrize(
    "wrong", ["60 * * * * x", "* * * * x", "* * 0 * * x", "* * * * mon x", "* * * * * date +%F", "*/0 * * * * x"]
)
def test_a_wrong_crontab_would_be_seen(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - the line itself is the message
        crontab(wrong)


# ---- the little of YAML that manifests need: mappings, lists, texts, and lists and {} in one line


def yaml(text):
    """The documents of a text; ValueError for whatever is not plainly of that little."""
    return [_value(_lines(part)) for part in re.split(r"^---$", text, flags=re.MULTILINE)]


def _lines(text):
    found = []
    for line in filter(None, text.splitlines()):
        content = line.lstrip(" ")
        if "\t" in line or content.startswith("#") or (len(line) - len(content)) % 2:
            raise ValueError(line)
        found.append((len(line) - len(content), content))
    return found


def _value(lines):
    value, rest = _block(lines, lines[0][0])
    if rest:
        raise ValueError(rest[0][1])
    return value


def _block(lines, indent):
    """The value that stands at that indent, and the lines after it."""
    found = [] if lines[0][1].startswith("- ") else {}
    while lines and lines[0][0] == indent:
        content = lines[0][1]
        if isinstance(found, list):
            if not content.startswith("- "):
                raise ValueError(content)
            if re.match(r"- [A-Za-z]+: ", content):  # a mapping that begins behind the dash
                item, lines = _block([(indent + 2, content[2:]), *lines[1:]], indent + 2)
            else:
                item, lines = _scalar(content[2:]), lines[1:]
            found.append(item)
            continue
        pair = re.fullmatch(r"([A-Za-z_-]+):(?: (.+))?", content)
        if not pair or pair[1] in found:
            raise ValueError(content)
        if pair[2] is not None:
            found[pair[1]], lines = _scalar(pair[2]), lines[1:]
        elif len(lines) > 1 and lines[1][0] == indent + 2:
            found[pair[1]], lines = _block(lines[1:], indent + 2)
        else:
            raise ValueError(content)
    if lines and lines[0][0] > indent:
        raise ValueError(lines[0][1])
    return found, lines


def _scalar(text):
    if text[0] in '"[{' or text in {"true", "false"} or text.isdecimal():
        return json.loads(text)
    if not re.fullmatch(r"[\w./][\w./:-]*", text) or text in {"yes", "no", "on", "off", "null"}:
        raise ValueError(text)
    return text


@pytest.mark.parametrize(
    "text", ["a: b\n  c: d\n", "a:\nb: c\n", "a: b\na: c\n", "a:\n   b: c\n", "a: no\n", "a: *x\n", "- a\nb: c\n", "a: [b\n"]
)
def test_what_is_not_plain_yaml_would_be_seen(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the line itself is the message
        yaml(text)


def test_the_little_yaml():
    text = 'a:\n  - b: 1\n    c: ["d", "e"]\n  - b: x/y:z\nf: "no"\ng: {}\n---\nh: true\n'
    assert yaml(text) == [{"a": [{"b": 1, "c": ["d", "e"]}, {"b": "x/y:z"}], "f": "no", "g": {}}, {"h": True}]


def image():
    """What the Dockerfile says: instruction → arguments, in order, with continued lines joined."""
    text = re.sub(r" \\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            assert word in {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}, line
            found.setdefault(word, []).append(rest)
    return found


def test_compose():
    (document,) = yaml(blocks("yaml")[0])
    service = document["services"]["update"]
    assert parse(service["command"]) == "update"
    assert service["restart"] == "no"
    assert service["user"] == image()["USER"][0]
    volumes = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert set(volumes.values()) >= set(json.loads(image()["VOLUME"][0]))
    assert {name for name in volumes if not name.startswith(".")} == set(document["volumes"])
    assert volumes["./config"] == image()["WORKDIR"][-1] + "/config"


def test_kubernetes():
    job, claim = yaml(blocks("yaml")[1])
    assert (job["apiVersion"], job["kind"], claim["kind"]) == ("batch/v1", "CronJob", "PersistentVolumeClaim")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    crontab(job["spec"]["schedule"] + " x")
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == image()["USER"][0]
    (container,) = pod["containers"]
    assert container["command"] == json.loads(image()["ENTRYPOINT"][0])
    assert parse(container["args"]) == "update"
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounted) == {*json.loads(image()["VOLUME"][0]), "/tmp"}
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [claim["metadata"]["name"]]


# ---- the image


def installs(text):
    """The flags and arguments of every `pip install` in the text."""
    return [set(words.split()) for words in re.findall(r"-m pip install ([^\n\"&;]+)", text)]


def test_the_image_installs_as_make_does():
    found, said = image(), "\n".join(image()["RUN"])
    assert found["FROM"] == ["python:3.11-slim"]
    makefile = (ROOT / "Makefile").read_text().replace("$(LOCK)", "requirements.lock")
    stamp = makefile[makefile.index("$(STAMP): ") : makefile.index("demo: ")]
    only_here, only_there = {"--no-cache-dir"}, {"--editable"}
    assert [words - only_here for words in installs(said)] == [words - only_there for words in installs(stamp)]
    assert len(installs(said)) == 2


def test_the_image_copies_what_exists_and_nothing_else_is_sent():
    sources = [source for line in image()["COPY"] for source in line.split()[:-1]]
    assert {"requirements.lock", "pyproject.toml", "etl"} <= set(sources)
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_image_runs_etl_as_somebody_who_is_not_root():
    found = image()
    project = (ROOT / "pyproject.toml").read_text()
    (entry,) = json.loads(found["ENTRYPOINT"][0])
    assert re.search(rf'^{entry} = "etl\.cli:main"$', project, re.MULTILINE)
    assert int(found["USER"][0].split(":")[0]) > 0
    assert {"ETL_LAKE=/lake", "ETL_STATE_DIR=/state"} <= set(" ".join(found["ENV"]).split())


# ---- make audit

spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

SOUND = {"name": "click", "version": "8.5.1", "vulns": []}
HOLE = {
    "name": "click",
    "version": "8.5.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["9"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "click", "skip_reason": "Dependency not found"}
DOWN = "Traceback\nrequests.exceptions.ProxyError: HTTPSConnectionPool: Max retries exceeded\n"
TIP = "ERROR: timed out\nTip: your network may be blocking this service. Try another service with `-s SERVICE`\n"


@pytest.mark.parametrize(
    ("packages", "log", "code", "expected", "said"),
    [
        ([SOUND], "", 0, 0, "nothing is known against 1 packages"),
        ([SOUND, HOLE], "Found 1", 1, 1, "PYSEC-1, fixed in 9"),
        ([SOUND, UNKNOWN], "", 0, 1, "not found"),
        ([UNKNOWN, UNKNOWN], "", 0, 0, "NOTHING WAS CHECKED"),
        ([], "", 0, 1, "failed"),
        ([SOUND], "broken", 2, 2, "broken"),
        (None, DOWN, 1, 0, "NOTHING WAS CHECKED"),
        (None, TIP, 1, 0, "NOTHING WAS CHECKED"),
        (None, "requests.exceptions.SSLError: certificate", 1, 1, "SSLError"),
        (None, "no such option", 2, 2, "no such option"),
        (None, "", 0, 1, "failed"),
    ],
)
def test_what_an_audit_found(packages, log, code, expected, said):
    report = None if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    found, lines = audit.judge(report, log, code)
    assert found == expected
    assert said in "\n".join(lines)
