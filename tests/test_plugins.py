"""Plugins: found by metadata, loaded at the first look-up, each in isolation."""

import subprocess
import sys
import textwrap
import warnings

import pytest

from webssl_toolbox import plugins, registry
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.settings import settings_from

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
REGISTRIES = [value for value in REGISTRIES if isinstance(value, registry.PluginRegistry)]
HEAD = "from webssl_toolbox import hookimpl\n@hookimpl\ndef webssl_register(registries):\n    "
GOOD = HEAD + "registries.{shelf}[{name!r}] = '{module}.thing:Thing'\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Starts a process' plugin state anew and returns a function that installs a distribution."""
    monkeypatch.setattr(plugins, "_state", plugins._State())
    monkeypatch.delenv("WEBSSL_PLUGINS", raising=False)
    core = {"Pretrainer", "EMA", "JointSpace"}
    for each in REGISTRIES:
        kept = {name: entry for name, entry in each.module_dict.items() if name in core}
        monkeypatch.setattr(each, "_module_dict", kept)
    monkeypatch.syspath_prepend(tmp_path)

    def add(plugin, code=None, version="1.2", entry=None, **values):
        """Writes a package `<plugin>_pkg` with metadata, as an installer would."""
        module = f"{plugin}_pkg"
        info = tmp_path / f"dist_{plugin}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: dist-{plugin}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[webssl_toolbox]\n{entry or plugin} = {module}\n")
        (tmp_path / module).mkdir()
        values = {"shelf": "objectives", "name": plugin.title(), "module": module} | values
        (tmp_path / module / "__init__.py").write_text((code or GOOD).format(**values))
        (tmp_path / module / "thing.py").write_text("class Thing:\n    pass\n")
        return module

    yield add
    for module in [m for m in sys.modules if m.partition(".")[0].endswith("_pkg")]:
        del sys.modules[module]


def test_a_plugin_is_imported_at_the_first_look_up_and_its_class_when_built(install):
    module = install("acme")
    assert [entry.name for entry in plugins.installed()] == ["builtin", "acme"]
    assert module not in sys.modules, "listing read more than metadata"
    assert "Acme" in registry.OBJECTIVES
    assert module in sys.modules and f"{module}.thing" not in sys.modules
    assert registry.OBJECTIVES.get("Acme").__name__ == "Thing"
    assert registry.OBJECTIVES.get("webssl_toolbox.Acme") is registry.OBJECTIVES.get("Acme")
    assert f"{module}.thing" in sys.modules


@pytest.mark.parametrize(
    "shelf", ["towers", "spaces", "objectives", "datasets", "views", "evaluators", "hooks"]
)
def test_a_plugin_can_bring_every_kind(install, shelf):
    install("acme", shelf=shelf)
    holders = [each for each in REGISTRIES if "Acme" in each]
    assert len(holders) == 1
    assert plugins.owner(holders[0].name, "Acme") == "dist-acme 1.2"


BROKEN = {
    "raises": ("raise RuntimeError('no such driver')\n", "RuntimeError: no such driver"),
    "exits": ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
    "syntax": ("def broken(:\n", "SyntaxError"),
    "missing import": ("import a_package_that_nobody_has\n", "ModuleNotFoundError"),
    "misspelt hook": (
        "from webssl_toolbox import hookimpl\n@hookimpl\ndef webssl_regsiter(registries):\n"
        "    registries.objectives['Acme'] = 'x:Y'\n",
        "unknown hook 'webssl_regsiter'",
    ),
    "wrong argument": (
        "from webssl_toolbox import hookimpl\n@hookimpl\ndef webssl_register(shelves):\n    0\n",
        "shelves",
    ),
    "forgotten mark": ("def webssl_register(registries):\n    pass\n", "it implements no hook"),
    "no class": (HEAD + "registries.objectives['Acme'] = 'my_pkg'\n", "'module:Class'"),
    "unknown shelf": (HEAD + "registries.objective['Acme'] = 'x:Y'\n", "AttributeError"),
    "halfway": (
        HEAD + "registries.objectives['Acme'] = 'x:Y'\n    raise ValueError('halfway')\n",
        "halfway",
    ),
    "twice": (
        HEAD + "registries.views['A'] = 'x:Y'\n    registries.views['A'] = 'x:Z'\n",
        "registers the view 'A' twice",
    ),
}


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_warns_and_the_rest_goes_on(install, code, reason):
    install("acme", code.replace("{", "{{").replace("}", "}}"))
    install("fine")
    with pytest.warns(RuntimeWarning, match="'acme' of dist-acme 1.2") as caught:
        assert registry.OBJECTIVES.get("CLIP").__name__ == "CLIP"
    assert reason in str(caught[0].message)
    assert "Fine" in registry.OBJECTIVES
    assert all("A" not in each and "Acme" not in each for each in REGISTRIES), "half a plugin stays"
    with pytest.raises(ValueError, match=r"'Acme' is not known.*BROKEN.*dist-acme 1.2"):
        registry.OBJECTIVES.get("Acme")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warned once
        settings_from(load_config("configs/declip_r50_laptop.py"))


def test_a_config_that_asks_for_a_type_of_a_broken_plugin_says_so(install):
    install("acme", "raise RuntimeError('no such driver')\n")
    cfg = load_config("configs/declip_r50_laptop.py")
    cfg["model"]["objectives"]["acme"] = {"type": "Acme"}
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(
            ValueError, match=r"model.objectives.acme.type.*dist-acme 1.2.*no such driver"
        ),
    ):
        settings_from(cfg)


def test_a_class_that_cannot_be_imported_names_its_distribution(install):
    install("acme", HEAD + "registries.objectives['Acme'] = 'acme_pkg.thing:Thign'\n")
    with pytest.raises(ValueError, match=r"'Acme' of dist-acme 1.2 cannot be imported.*Thign"):
        registry.OBJECTIVES.get("Acme")


def test_one_name_from_two_plugins_is_an_error_that_names_both(install):
    install("acme", name="Barlow")
    install("bolt", name="Barlow")
    for _ in range(2):  # not only the first time
        with pytest.raises(plugins.DuplicateName, match=r"'Barlow'.*dist-acme 1.2.*dist-bolt 1.2"):
            registry.OBJECTIVES.get("CLIP")


@pytest.mark.parametrize(
    ("shelf", "name"), [("objectives", "CLIP"), ("towers", "EMA"), ("spaces", "JointSpace")]
)
def test_a_plugin_cannot_take_the_place_of_a_built_in(install, shelf, name):
    install("acme", shelf=shelf, name=name)
    with pytest.raises(plugins.DuplicateName, match=rf"'{name}'.*webssl-toolbox.*dist-acme 1.2"):
        registry.OBJECTIVES.get("CLIP")


def test_one_name_may_serve_several_kinds(install):
    install("acme", shelf="views", name="CLIP")
    assert registry.VIEWS.get("CLIP") is not registry.OBJECTIVES.get("CLIP")


def test_one_entry_point_name_from_two_distributions(install):
    install("acme")
    install("bolt", entry="acme")
    with pytest.raises(plugins.DuplicateName, match=r"'acme'.*dist-acme 1.2.*dist-bolt 1.2"):
        registry.OBJECTIVES.get("CLIP")


@pytest.mark.parametrize(
    ("limit", "present"),
    [("acme", ["Acme"]), ("acme, bolt", ["Acme", "Bolt"]), ("", []), ("bolt,", ["Bolt"])],
)
def test_the_environment_limits_third_parties(install, monkeypatch, limit, present):
    modules = {name: install(name) for name in ("acme", "bolt")}
    monkeypatch.setenv("WEBSSL_PLUGINS", limit)
    assert "CLIP" in registry.OBJECTIVES
    assert [n for n in ("Acme", "Bolt") if n in registry.OBJECTIVES] == present
    imported = [name.title() for name, module in modules.items() if module in sys.modules]
    assert imported == present, "a plugin that is not admitted was imported"


def test_a_limit_that_names_nobody_warns(install, monkeypatch):
    install("acme")
    monkeypatch.setenv("WEBSSL_PLUGINS", "amce")
    with pytest.warns(RuntimeWarning, match="'amce', which is not installed; did you mean 'acme'"):
        assert "Acme" not in registry.OBJECTIVES


def test_a_stranger_does_not_pass_as_built_in(install, monkeypatch):
    module = install("acme", entry="builtin")
    monkeypatch.setenv("WEBSSL_PLUGINS", "")
    assert plugins.distribution(plugins.installed()[0]).startswith("webssl-toolbox")
    assert "CLIP" in registry.OBJECTIVES and "Acme" not in registry.OBJECTIVES
    assert module not in sys.modules


def test_importing_the_package_imports_no_torch_and_no_plugin():
    code = """
        import sys
        import webssl_toolbox
        heavy = {"torch", "mmengine", "numpy", "pluggy", "webssl_plugins"} & set(sys.modules)
        assert not heavy, heavy
        import webssl_toolbox.plugins as plugins
        assert plugins.installed()[0].name == "builtin"
        assert not {"torch", "webssl_plugins"} & set(sys.modules)
        from webssl_toolbox.registry import OBJECTIVES
        assert "CLIP" in OBJECTIVES
        assert "webssl_plugins" in sys.modules and "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
