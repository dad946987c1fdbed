"""Which modules an import loads, and which modules each floor of the package may import."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import sinkd

PACKAGE = Path(sinkd.__file__).parent

# From the ground up; `recipes` is on the floor of `errors`, since it only knows where files are.
FLOORS = [
    "errors",
    "recipes",
    "transport",
    "losses",
    "tasks",
    "models",
    "training",
    "sweep",
    "report",
    "exchange",
    "estimate",
    "cli",
]
LATER = [
    "accelerate",
    "datasets",
    "pandas",
    "pyarrow",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "transformers",
    "triton",
    "yaml",
]


def modules(floor: str) -> list[Path]:
    alone = PACKAGE / f"{floor}.py"
    return [alone] if alone.exists() else sorted((PACKAGE / floor).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The full names that a file imports, anywhere in it: `from sinkd.tasks import encode` is sinkd.tasks.encode."""
    found = set()
    package = ["sinkd", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_every_file_belongs_to_a_floor():
    known = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"} | {path for floor in FLOORS for path in modules(floor)}
    assert set(PACKAGE.rglob("*.py")) == known


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_floors_below_it(floor):
    allowed = {*FLOORS[: FLOORS.index(floor) + 1], "__version__"}
    above = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules(floor)
        for name in sorted(imports(path))
        if name.startswith("sinkd.") and name.split(".")[1] not in allowed
    ]
    assert above == []


@pytest.mark.parametrize("floor", ["errors", "transport", "losses"])
def test_the_lower_floors_need_torch_alone(floor):
    named = {name.split(".")[0] for path in modules(floor) for name in imports(path)}
    assert named - set(sys.stdlib_module_names) <= {"torch", "triton", "sinkd"}  # Triton only where a kernel is chosen


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh Python holds after the statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    return set(done.stdout.split())


def test_import_sinkd_loads_no_library():
    assert loaded_by("import sinkd").isdisjoint({"torch", "numpy", *LATER})


@pytest.mark.parametrize("names", ["SinkhornLoss", "sinkhorn, lorentz", "Objective", "SinkdError"])
def test_losses_and_transport_load_torch_alone(names):
    assert loaded_by(f"from sinkd import {names}").isdisjoint(LATER)


def test_every_public_name_is_there():
    assert all(getattr(sinkd, name) is not None for name in sinkd.__all__)
    assert set(sinkd.__all__) <= set(dir(sinkd))
    assert sinkd.lorentz.__name__ == "sinkd.transport.lorentz"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sinkd' has no attribute 'SinkhornLos'"):
        sinkd.SinkhornLos  # noqa: B018


def test_tensorflow_is_known_to_the_converter_alone():
    named = [
        path.name for path in sorted(PACKAGE.rglob("*.py")) if any(n.startswith("tensorflow") for n in imports(path))
    ]
    assert named == ["tensorflow.py"]


@pytest.mark.slow
def test_training_does_not_import_an_installed_tensorflow(world, tmp_path):
    """TensorBoard would, for seconds in every process."""
    flags = ["finetune", "--model_path", str(world.student), *map(str, world.flags(tmp_path / "run"))]
    statement = f"from sinkd.cli.main import main; assert main({flags!r}) == 0"
    assert find_spec("tensorflow") is not None
    assert loaded_by(statement).isdisjoint({"tensorflow"})
    assert list((tmp_path / "run" / "runs").rglob("events.out.tfevents.*"))
