"""Settings: where each value comes from, and what is refused by name."""

import pickle
import re
from dataclasses import fields
from pathlib import Path

import pytest

from etl.config import Settings, UniverseEntry, load, load_universe, universe_path
from etl.errors import UsageError

CONFIG = Path(__file__).parent.parent / "config"
HOME = {"HOME": "/home/me"}


def project(root: Path, toml: str = "") -> Path:
    """A folder with config/default.toml."""
    (root / "config").mkdir(parents=True)
    (root / "config/default.toml").write_text(toml, "utf-8")
    return root


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)


def test_the_defaults(tmp_path):
    (tmp_path / "config").mkdir()
    assert load(env=HOME, cwd=tmp_path) == Settings(
        lake=tmp_path / "data/lake",
        network="mainnet",
        um_url="https://fapi.binance.com",
        cm_url="https://dapi.binance.com",
        spot_url="https://api.binance.com",
        archive_url="https://data.binance.vision",
        archive_index_url="https://s3-ap-northeast-1.amazonaws.com/data.binance.vision",
        state_dir=Path("/home/me/.local/state/binance-futures-etl"),
        weight_share=0.9,
        workers=16,
        log_format="text",
        partition="year",
    )


def test_the_shipped_file_is_a_copy_of_the_defaults(tmp_path):
    (tmp_path / "config").mkdir()
    packaged = load(env=HOME, cwd=tmp_path)
    shipped = (CONFIG / "default.toml").read_text("utf-8")
    (tmp_path / "config/default.toml").write_text(shipped, "utf-8")
    assert load(env=HOME, cwd=tmp_path) == packaged
    (tmp_path / "config/default.toml").write_text(uncommented(shipped), "utf-8")
    assert load(env=HOME, cwd=tmp_path) == packaged


def test_the_shipped_file_mentions_and_explains_every_setting():
    explained = re.findall(r"^#?(\w+) = [^#\n]*# \w", (CONFIG / "default.toml").read_text("utf-8"), flags=re.MULTILINE)
    assert explained == [one.name for one in fields(Settings)]


def test_each_layer_overrides_the_ones_below(tmp_path):
    cwd = project(tmp_path / "p", 'weight_share = 0.1\nworkers = 1\nlog_format = "json"\npartition = "month"')
    (tmp_path / "own.toml").write_text('weight_share = 0.2\nworkers = 2\nlog_format = "text"')
    settings = load(
        {"config": tmp_path / "own.toml", "weight_share": 0.4},
        env={"ETL_WEIGHT_SHARE": "0.3", "ETL_WORKERS": "3"},
        cwd=cwd,
    )
    assert (settings.weight_share, settings.workers, settings.log_format, settings.partition) == (0.4, 3, "text", "month")


def test_the_file_of_the_option_replaces_the_file_of_the_variable(tmp_path):
    (tmp_path / "option.toml").write_text("workers = 2")
    (tmp_path / "variable.toml").write_text("workers = 3\nweight_share = 0.5")
    env = {"ETL_CONFIG": "variable.toml"}
    assert load(env=env, cwd=tmp_path).workers == 3
    chosen = load({"config": "option.toml"}, env=env, cwd=tmp_path)
    assert (chosen.workers, chosen.weight_share) == (2, 0.9)


def test_the_nearest_default_file_upwards_counts(tmp_path):
    project(tmp_path, "workers = 2")
    inner = project(tmp_path / "inner", "workers = 3")
    (inner / "deep/er").mkdir(parents=True)
    assert load(env={}, cwd=tmp_path).workers == 2
    assert load(env={}, cwd=inner / "deep/er").workers == 3


def test_options_are_text_or_values_and_none_is_not_given(tmp_path):
    settings = load(
        {"weight_share": "0.5", "workers": 4, "lake": tmp_path / "a", "network": None, "config": None}, env={}, cwd=tmp_path
    )
    assert (settings.weight_share, settings.workers, settings.lake) == (0.5, 4, tmp_path / "a")
    assert load({"weight_share": 1}, env={}, cwd=tmp_path).weight_share == 1.0


def test_empty_variables_and_those_of_others_are_ignored(tmp_path):
    (tmp_path / "config").mkdir()
    env = {"ETL_LAKE": "", "ETL_WORKERS": "", "ETL_CONFIG": "", "ETL_REAL_DATA": "x", "ETL_OTHER_TOOL": "y", "WORKERS": "1"}
    assert load(env=HOME | env, cwd=tmp_path) == load(env=HOME, cwd=tmp_path)


class TestPaths:
    def test_relative_to_the_file_in_toml_and_to_the_working_directory_elsewhere(self, tmp_path):
        cwd = project(tmp_path / "p", 'lake = "../x/lake"\nstate_dir = "state"')
        settings = load(env={}, cwd=cwd)
        assert (settings.lake, settings.state_dir) == (cwd / "x/lake", cwd / "config/state")
        settings = load({"lake": "../a"}, env={"ETL_STATE_DIR": "b"}, cwd=cwd)
        assert (settings.lake, settings.state_dir) == (tmp_path / "a", cwd / "b")

    def test_default_lake_lies_beside_the_nearest_config_folder_or_in_the_working_directory(self, tmp_path):
        assert load(env={}, cwd=tmp_path).lake == tmp_path / "data/lake"
        (tmp_path / "config").mkdir()
        (tmp_path / "notebooks").mkdir()
        assert load(env={}, cwd=tmp_path / "notebooks").lake == tmp_path / "data/lake"

    def test_a_linked_config_folder_belongs_to_the_folder_that_holds_the_link(self, tmp_path):
        real = project(tmp_path / "real", 'lake = "../data/lake"')
        (tmp_path / "p").mkdir()
        (tmp_path / "p/config").symlink_to(real / "config")
        assert load(env={}, cwd=tmp_path / "p").lake == tmp_path / "p/data/lake"

    def test_tilde_is_the_home_folder(self, tmp_path):
        assert load({"lake": "~/lake"}, env={}, cwd=tmp_path).lake == Path.home() / "lake"
        assert load({"lake": "~no.such.user/x"}, env={}, cwd=tmp_path).lake == tmp_path / "~no.such.user/x"

    def test_state_follows_the_xdg_variable_unless_it_is_relative(self, tmp_path):
        assert load(env=HOME | {"XDG_STATE_HOME": "/s"}, cwd=tmp_path).state_dir == Path("/s/binance-futures-etl")
        for ignored in ("", "relative"):
            state_dir = load(env=HOME | {"XDG_STATE_HOME": ignored}, cwd=tmp_path).state_dir
            assert state_dir == Path("/home/me/.local/state/binance-futures-etl")


def test_urls_follow_the_network_unless_they_are_given(tmp_path):
    settings = load({"network": "testnet"}, env={"ETL_CM_URL": "http://127.0.0.1:8000/base/"}, cwd=tmp_path)
    assert settings.um_url == "https://testnet.binancefuture.com"
    assert settings.cm_url == "http://127.0.0.1:8000/base"
    assert settings.spot_url == "https://testnet.binance.vision"


def test_settings_can_travel(tmp_path):
    settings = load(env={}, cwd=tmp_path)
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(AttributeError):
        settings.workers = 1


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("wrokers = 3", ["wrokers", "no such setting", "workers"]),
        ("[lake]\nroot = 'x'", ["lake", "a text"]),
        ("lake = 3", ["lake", "a text"]),
        ("lake = ''", ["lake", "a folder"]),
        ("lake = 's3://bucket/prefix'", ["lake", "s3://bucket/prefix", "not built yet"]),
        ("network = 'Mainnet'", ["network", "mainnet or testnet"]),
        ("um_url = 'fapi.binance.com'", ["um_url", "https://"]),
        ("um_url = 'https://'", ["um_url", "https://"]),
        ("archive_url = 'https://data.binance.vision/?prefix='", ["archive_url", "no query"]),
        ("weight_share = '0.5'", ["weight_share", "a number"]),
        ("weight_share = true", ["weight_share", "a number"]),
        ("weight_share = 0", ["weight_share", "above 0"]),
        ("weight_share = 1.01", ["weight_share", "at most 1"]),
        ("weight_share = nan", ["weight_share", "above 0"]),
        ("workers = 2.0", ["workers", "a whole number"]),
        ("workers = true", ["workers", "a whole number"]),
        ("workers = 0", ["workers", "at least 1"]),
        ("log_format = 'xml'", ["log_format", "text or json"]),
        ("partition = 'day'", ["partition", "year or month"]),
        ("workers = \n", ["TOML", "line 1"]),
        ("config = 'other.toml'", ["config", "no such setting"]),
    ],
)
def test_what_a_file_says_wrongly_is_refused_by_name(tmp_path, toml, said):
    file = project(tmp_path, toml) / "config/default.toml"
    with pytest.raises(UsageError) as caught:
        load(env={}, cwd=tmp_path)
    for part in (str(file), *said):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("workers", "many", "a whole number"),
        ("workers", "-1", "at least 1"),
        ("weight_share", "1,0", "a number"),
        ("weight_share", "nan", "above 0"),
        ("weight_share", "90", "at most 1"),
        ("network", "demo", "mainnet or testnet"),
        ("spot_url", "ftp://x", "https://"),
        ("um_url", "http://u:hush@[::1", "https://"),
        ("um_url", "https://fapi.binance.com:many", "https://"),
        ("um_url", "https://u:hush@", "https://"),
        ("lake", "s3://bucket", "not built yet"),
        ("log_format", "TEXT", "text or json"),
        ("partition", "week", "year or month"),
    ],
)
def test_the_message_names_the_variable_or_the_option(tmp_path, name, text, wanted):
    with pytest.raises(UsageError, match=f"ETL_{name.upper()} is .*{wanted}"):
        load(env={f"ETL_{name.upper()}": text}, cwd=tmp_path)
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is .*{wanted}"):
        load({name: text}, env={}, cwd=tmp_path)


def test_a_refused_address_keeps_its_password(tmp_path):
    with pytest.raises(UsageError, match="ETL_UM_URL") as caught:
        load(env={"ETL_UM_URL": "http://u:hush@[::1"}, cwd=tmp_path)
    assert "hush" not in str(caught.value)


def test_a_wrong_value_is_refused_even_where_a_stronger_one_stands(tmp_path):
    with pytest.raises(UsageError, match="ETL_WORKERS"):
        load({"workers": 3}, env={"ETL_WORKERS": "many"}, cwd=tmp_path)


def test_an_unknown_option_is_refused(tmp_path):
    with pytest.raises(UsageError, match="wrokers"):
        load({"wrokers": 3}, env={}, cwd=tmp_path)


@pytest.mark.parametrize("content", [None, b"lake = '\xff'"], ids=["missing", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "own.toml"
    if content is not None:
        file.write_bytes(content)
    for options, env in (({"config": "own.toml"}, {}), ({}, {"ETL_CONFIG": str(file)})):
        with pytest.raises(UsageError, match=re.escape(str(file))):
            load(options, env=env, cwd=tmp_path)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        load({"config": tmp_path}, env={}, cwd=tmp_path)  # a folder


def folder(path):
    path.mkdir()


def dangling(path):
    path.symlink_to("not there")


def in_a_dangling_folder(path):
    path.parent.rmdir()
    path.parent.symlink_to("not there")


@pytest.mark.parametrize("what", [folder, dangling, in_a_dangling_folder])
@pytest.mark.parametrize("name", ["default.toml", "universe.toml"])
def test_a_file_of_config_that_cannot_be_read_is_named_and_not_left_out(tmp_path, name, what):
    """Nor is one further up taken for it."""
    (project(tmp_path) / "config/universe.toml").touch()
    inner = tmp_path / "inner"
    (inner / "config").mkdir(parents=True)
    what(inner / "config" / name)
    with pytest.raises(UsageError, match=re.escape(str(inner / "config" / name))):
        load_universe(universe_path(inner)) if name == "universe.toml" else load(env=HOME, cwd=inner)


class TestUniverse:
    def test_entries(self, tmp_path):
        file = tmp_path / "universe.toml"
        file.write_text(
            """
            [[series]]
            datasets = ["klines", "funding"]
            symbols = ["BTCUSDT", "币安人生USDT"]

            [[series]]
            market = "cm"
            datasets = ["mark_klines"]
            symbols = ["all"]
            interval = ["1h", "1M"]
            start = 2024-01-01

            [[series]]
            market = "spot"
            datasets = ["klines"]
            symbols = ["BTCUSDT"]
            start = "2024-01-01T12:00+01:00"
            """,
            "utf-8",
        )
        assert load_universe(file) == (
            UniverseEntry(("klines", "funding"), ("BTCUSDT", "币安人生USDT"), "um", ("1m",), None),
            UniverseEntry(("mark_klines",), ("all",), "cm", ("1h", "1M"), 1_704_067_200_000),
            UniverseEntry(("klines",), ("BTCUSDT",), "spot", ("1m",), 1_704_106_800_000),
        )

    def test_the_shipped_file_keeps_nothing_and_its_examples_are_right(self, tmp_path):
        shipped = (CONFIG / "universe.toml").read_text("utf-8")
        assert load_universe(CONFIG / "universe.toml") == ()
        examples = tmp_path / "universe.toml"
        examples.write_text(re.sub(r"^# (?=\[\[|\w+ = )", "", shipped, flags=re.MULTILINE), "utf-8")
        assert load_universe(examples) == (
            UniverseEntry(("klines", "funding"), ("BTCUSDT", "ETHUSDT"), "um", ("1m", "1h"), 1_704_067_200_000),
            UniverseEntry(("klines",), ("all",), "um", ("1d",), None),
        )

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("market = 'eu'", ["market", "'eu'", "um, cm, spot"]),
            ("datasets = ['trades']", ["datasets", "'trades'", "klines"]),
            ("datasets = 'klines'", ["datasets", "list"]),
            ("symbols = []", ["symbols", "list"]),
            ("symbols = ['']", ["symbols", "list"]),
            ("symbols = [1]", ["symbols", "list"]),
            ("interval = '1m'", ["interval", "list"]),
            ("interval = ['7m']", ["interval", "'7m'"]),
            ("interval = ['3d']", ["interval", "resample"]),
            ("intervals = ['1m']", ["intervals", "no such key"]),
            ("start = 2024", ["start", "2024"]),
            ("start = 12:00:00", ["start"]),
            ("start = 'yesterday'", ["start", "yesterday"]),
            ("market = 'spot'\ndatasets = ['funding']", ["datasets", "spot", "funding"]),
            ("datasets = []\n[other]", ["other", "[[series]]"]),
        ],
    )
    def test_what_is_wrong_is_refused_by_name(self, tmp_path, line, said):
        lines = {"datasets": "['klines']", "symbols": "['BTCUSDT']"}
        kept = "\n".join(f"{key} = {value}" for key, value in lines.items() if f"{key} =" not in line)
        file = tmp_path / "universe.toml"
        file.write_text(f"[[series]]\n{kept}\n{line}")
        with pytest.raises(UsageError) as caught:
            load_universe(file)
        for part in (str(file), *said):
            assert part in str(caught.value)

    @pytest.mark.parametrize("toml", ["series = 1", "series = ['BTCUSDT']", "[series]\nsymbols = ['BTCUSDT']"])
    def test_series_are_tables(self, tmp_path, toml):
        file = tmp_path / "universe.toml"
        file.write_text(toml)
        with pytest.raises(UsageError, match=r"series: .*\[\[series\]\]"):
            load_universe(file)

    @pytest.mark.parametrize(("present", "missing"), [("symbols", "datasets"), ("datasets", "symbols")])
    def test_datasets_and_symbols_are_needed(self, tmp_path, present, missing):
        file = tmp_path / "universe.toml"
        file.write_text(f"[[series]]\n{present} = ['klines']")
        with pytest.raises(UsageError, match=f"series 1: {missing}: is missing"):
            load_universe(file)

    def test_it_is_found_upwards(self, tmp_path):
        assert universe_path(tmp_path) is None
        (tmp_path / "config").mkdir()
        (tmp_path / "config/universe.toml").touch()
        (tmp_path / "a/config").mkdir(parents=True)
        assert universe_path(tmp_path / "a/config") == tmp_path / "config/universe.toml"
