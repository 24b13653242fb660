"""What the command line shows of every study, and what it makes of options."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest

from experiments import _cli, _provenance
from experiments._registry import COMMANDS, STUDIES, load

OTHERS = [name for name in COMMANDS if name != "launch"]


@pytest.mark.parametrize("name", [*STUDIES, *OTHERS])
def test_every_option_is_explained_and_default(name, capsys):
    config = load(name)[1]
    with pytest.raises(SystemExit) as left:
        _cli.parse(config, ["--help"], name)
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert config.__doc__.splitlines()[0][:40] in out
    for field in _cli.fields(config):
        assert field.metadata.get("help"), field.name
        assert field.name.replace("_", "-") in out.lower(), field.name
    assert _cli.parse(config, [], name) == config()
    assert _provenance.command(name, config()) == f"python -m experiments {name}"


@dataclasses.dataclass(frozen=True)
class Base:
    data_dir: str = dataclasses.field(default="a", metadata={"place": True})
    epochs: int = dataclasses.field(default=3, metadata={"help": "passes"})


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    data_dir: str = "b"
    epochs: int = dataclasses.field(default=4, metadata={"help": "fewer"})


@dataclasses.dataclass(frozen=True)
class Again(Derived):
    epochs: int = 5


def test_another_default_keeps_the_rest_of_a_field():
    place, epochs = _cli.fields(Again())
    assert _provenance.is_place(place) and place.default == "b"
    assert epochs.metadata["help"] == "fewer" and epochs.default == 5
    assert Again.__dataclass_fields__["data_dir"].metadata == {}  # left as it is
    assert _provenance.command("x", Again(data_dir="/c")) == "python -m experiments x"


@pytest.mark.parametrize("name", STUDIES)
def test_a_configuration_is_json_and_comes_back_from_its_options(name):
    config = load(name)[1]()
    assert _cli.parse(type(config), _cli.options_of(config), name) == config
    json.dumps(dataclasses.asdict(config), allow_nan=False)


def test_the_list_fits_on_a_screen(capsys):
    assert _cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    for name in (*STUDIES, *COMMANDS):
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    groups = [line[:-1] for line in lines[3:] if line and not line.startswith(" ")]
    assert groups == [group for group in (*_cli.GROUPS, "commands") if group in groups]


def test_ctrl_c_ends_a_command_with_a_line(tmp_path):
    code = (
        "import sys, time\n"
        "from experiments import _cli, quickstart\n"
        "def run(config):\n"
        "    print('runs', flush=True)\n"
        "    time.sleep(60)\n"
        "quickstart.run = run\n"
        "sys.exit(_cli.main(['quickstart']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "\nquickstart was interrupted; files that it wrote stay.\n"


def test_a_reader_that_leaves_is_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-u", "-c", "import sys; sys.stdin.read(); "
         "from experiments import _cli; sys.exit(_cli.main(['list']))"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1
