"""The README and the docs are true: commands compose, code runs, links and pictures exist."""

import re
import shlex

import numpy as np
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from lensfind.bands import BANDS
from lensfind.cli import CONF, command_line
from tests.conftest import ROOT, noise_stamps

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for document in DOCUMENTS
        for line in document.read_text().replace("\\\n", " ").splitlines()
        if re.match(r"\s*(WANDB_MODE=offline )?python (train|evaluate|simulate|interpret)\.py", line)
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command, tmp_path):
    """Every command of the docs gives a configuration; a misspelt key or option would not."""
    app, *arguments = shlex.split(command.replace("WANDB_MODE=offline ", ""))[1:]
    arguments = command_line(
        app.removesuffix(".py"), [re.sub(r"=(DIR|RUN_DIR|PATH)\b", f"={tmp_path}", argument) for argument in arguments]
    )
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    single = [
        f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        if override.is_sweep_override()
        else override.input_line
        for override in parsed
        if not override.key_or_group.startswith("hydra")
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose(app.removesuffix(".py"), overrides=single)
    assert cfg


def test_commands_were_found():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_exist(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            path = document.parent / target
            assert path.is_file(), target
            assert path.suffix != ".png" or path.stat().st_size < 500_000, target


def test_readme_code_runs(trained):
    """The two lines of Python, on four stamps."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {"stamps": noise_stamps(4)}
    exec(code.replace("RUN_DIR", str(trained)), names)
    assert names["p_lens"].shape == (4,)
    assert np.isfinite(names["p_lens"]).all()


def test_set_up_commands_stand_once():
    """shared/fresh.sh and .ci/run look for exactly these two lines."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert sum(line.endswith("# set-up: demo") for line in lines) == 1
    assert sum(line.endswith("# set-up: test") for line in lines) == 1


def test_the_table_of_networks_is_right():
    """Parameter counts and inputs of the README against the networks themselves."""
    from lensfind.nets import ARCHITECTURES, LensNet

    rows = re.findall(
        r"^\| (OU-\w+) \| `(\w+)` \| `model=(\w+) bands=(\w+)` \| (\d) x (\d+) x \d+ \| ([\d,]+) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 7
    for _, experiment, model, bands, channels, size, parameters in rows:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra_compose("train", overrides=[f"experiment={experiment}"])
            same = hydra_compose("train", overrides=[f"model={model}", f"bands={bands}"])
        assert (cfg.model, cfg.data.bands) == (same.model, same.data.bands)
        assert len(cfg.data.bands) == int(channels)
        assert set(cfg.data.bands) <= set(BANDS)
        net = LensNet(model, int(channels))
        assert ARCHITECTURES[model].size == int(size)
        assert sum(p.numel() for p in net.parameters()) == int(parameters.replace(",", ""))


def test_nothing_is_left_to_fill_in():
    for document in DOCUMENTS:
        assert not re.findall(r"\b[A-Z]+_(?:TIME|AUROC|TEXT)\b|TODO", document.read_text()), document.name
