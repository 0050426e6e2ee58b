"""Settings: presets, overrides and their types, the name of a run's folder."""

from __future__ import annotations

import copy

import pytest

from kdutils import runner
from kdutils.core.errors import UserError
from kdutils.core.settings import PRESETS, Setting, Table, parse_assignments
from kdutils.papers.distilbert.method import TripleLoss
from kdutils.papers.lssd.method import LSSD
from kdutils.papers.r_drop.method import RDrop
from kdutils.papers.seer_forcing.method import SeerForcing
from tests.tiny import one_sentence

TASKS = [experiment for name in runner.names() for experiment in runner.load(name).EXPERIMENTS]
TABLE = Table(
    Setting("alpha", 5.0, 4.0, 3.0, "weight of the KL", "Table 7"),
    Setting("updates", 10, 20, 30, "optimiser steps"),
    Setting("pair", "en-de", "en-de", "de-en", "languages"),
    Setting("both", True, False, False, "a switch"),
    Setting("log_every", 5, 5, 5, "updates between lines"),
    Setting("tracker", "", "", "", "an experiment tracker"),
)
LISTS = Table(
    Setting("languages", ["es", "fr"], [], [], "languages"), Setting("train_rows", [200, 500], [0], [0], "of each")
)


def test_a_preset_is_its_column():
    columns = {"demo": (5.0, 10, "en-de"), "study": (4.0, 20, "en-de"), "paper": (3.0, 30, "de-en")}
    for preset, expected in {**columns, "grammar": columns["demo"], "small": columns["demo"]}.items():
        assert preset in PRESETS
        settings = TABLE.resolve(preset)
        assert (settings.alpha, settings.updates, settings.pair) == expected
        assert settings.preset == preset and settings.overrides == {}
        assert dict(settings) == {name: settings[name] for name in TABLE.settings} and len(settings) == 6


def test_a_bed_has_the_values_of_the_preset_before_unless_it_has_its_own():
    table = TABLE.extended(updates={"grammar": 15}, alpha={"small": 2.0}, both={"grammar": False})
    assert [table.resolve(preset).updates for preset in PRESETS] == [10, 15, 15, 20, 30]
    assert [table.resolve(preset).alpha for preset in PRESETS] == [5.0, 5.0, 2.0, 4.0, 3.0]
    assert [table.resolve(preset).both for preset in PRESETS] == [True, False, False, False, False]


def test_an_override_changes_one_value_and_is_remembered():
    settings = TABLE.resolve("demo", {"alpha": 1.0, "updates": 10})
    assert settings.alpha == 1.0 and settings.updates == 10
    assert settings.overrides == {"alpha": 1.0}  # the other is the preset's own value
    assert "alpha=1.0" in repr(settings)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("alpha", 2, 2.0),
        ("alpha", "2", 2.0),
        ("alpha", "1e-3", 0.001),
        ("updates", "7", 7),
        ("updates", "1e3", 1000),
        ("updates", 7.0, 7),
        ("pair", "ko-en", "ko-en"),
        ("pair", 3, "3"),
        ("both", "false", False),
        ("both", False, False),
    ],
)
def test_values_are_read_as_the_type_of_the_preset(name, given, expected):
    value = TABLE.resolve("demo", {name: given})[name]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("alpha", "five"), ("alpha", True), ("alpha", None), ("alpha", [1.0]), ("alpha", ""), ("updates", 1.5),
        ("updates", "1.5"), ("updates", True), ("updates", "true"), ("updates", float("nan")), ("pair", None),
        ("pair", ["en", "de"]), ("pair", True), ("both", 1), ("both", "yes"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_one_sentence(name, given):
    with pytest.raises(UserError, match=f"The setting '{name}' takes") as caught:
        TABLE.resolve("demo", {name: given})
    assert str(given).lower() in one_sentence(caught.value).lower()


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("languages", '["ja", "ko"]', ["ja", "ko"]), ("languages", "['ja']", ["ja"]), ("languages", ("ja",), ["ja"]),
        ("languages", " ['ja', 'ko'] ", ["ja", "ko"]), ("languages", "('ja', 'ko')", ["ja", "ko"]),
        ("languages", [], []), ("train_rows", "[400]", [400]), ("train_rows", [400.0, "7"], [400, 7]),
    ],
)  # fmt: skip
def test_a_list_is_read_as_json_or_python_writes_it(name, given, expected):
    assert LISTS.resolve("demo", {name: given})[name] == expected


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("train_rows", 400, "takes a list of whole numbers in brackets, such as [200, 500], not 400."),
        ("train_rows", "400", "takes a list of whole numbers in brackets, such as [200, 500], not 400."),
        ("train_rows", "[1.5]", "takes a list of whole numbers in brackets, such as [200, 500], not [1.5]."),
        ("languages", "ja", """takes a list of texts in brackets, such as ["es", "fr"], not 'ja'."""),
        ("languages", "[ja]", """takes a list of texts in brackets, such as ["es", "fr"], not '[ja]'."""),
        ("languages", "[None]", """takes a list of texts in brackets, such as ["es", "fr"], not [None]."""),
        ("languages", "[" * 5000, """takes a list of texts in brackets, such as ["es", "fr"], not '[[["""),
        ("languages", "__import__('os')", "takes a list of texts in brackets"),
        ("train_rows", "[-1]", "train_rows is -1: it must be at least 0 and at most 100,000,000."),
    ],
)
def test_what_is_no_such_list_is_told_one_form_that_works_everywhere(name, given, words):
    with pytest.raises(UserError) as caught:
        LISTS.resolve("demo", {name: given})
    assert words in one_sentence(caught.value)


@pytest.mark.parametrize("given", ["a\0b", "a\udcffb"])
def test_text_that_is_none_is_one_sentence(given):
    with pytest.raises(UserError, match="characters that are no text") as caught:
        TABLE.resolve("demo", {"pair": given})
    one_sentence(caught.value)


# ---------------------------------------------------------------- bounds


HUGE = (10**20, -1, "1e308", 1e308, float("inf"), "Infinity", float("nan"), "NaN", 10**400, "1" * 5000)


@pytest.mark.parametrize("experiment", TASKS, ids=lambda one: f"{one.paper}-{one.name}")
def test_every_number_of_every_paper_has_bounds_that_hold_its_presets(experiment):
    """None may be negative: nothing here counts, weighs or lasts less than nothing."""
    table, seen = experiment.settings, 0
    for preset in PRESETS:
        for name, value in table.resolve(preset).items():
            table.settings[name].check(value)
    for name, setting in table.settings.items():
        sample = setting.demo[0] if isinstance(setting.demo, list) and setting.demo else setting.demo
        if type(sample) not in (int, float):
            continue
        seen += 1
        for value in HUGE:
            with pytest.raises(UserError, match=f"{name} is|The setting '{name}' takes") as caught:
                table.resolve("demo", {name: [value] if isinstance(setting.demo, list) else value})
            assert len(one_sentence(caught.value)) < 250
    assert seen > 20


def test_a_value_out_of_bounds_is_told_its_bounds():
    table = TABLE.extended(Setting("threads", 1, 0, 0, "threads"), Setting("own", 2, 2, 2, "own", bounds=(2, 64)))
    for name, value, words in [
        ("threads", 10_000, "threads is 10000: it must be at least 0 and at most 1,024."),
        ("alpha", float("inf"), "alpha is inf: it must be at least 0 and at most 1,000,000."),
        ("updates", 0, "updates is 0: it must be at least 1 and at most 1,000,000,000."),
        ("own", 65, "own is 65: it must be at least 2 and at most 64."),
        ("both", "2", "The setting 'both' takes true or false, such as True, not 2."),
    ]:
        with pytest.raises(UserError) as caught:
            table.resolve("demo", {name: value})
        assert one_sentence(caught.value) == words
    assert table.resolve("demo", {"own": 64, "threads": 1024}).own == 64


@pytest.mark.parametrize(
    "make",
    [
        lambda: RDrop(float("inf")), lambda: TripleLoss((float("inf"), 1.0, 1.0)),
        lambda: TripleLoss(temperature=float("inf")), lambda: SeerForcing(transfer="l2", transfer_weight=float("inf")),
        lambda: LSSD(("de", "ko"), float("inf")),
    ],
)  # fmt: skip
def test_a_method_that_is_made_by_hand_refuses_infinity_too(make):
    with pytest.raises(UserError, match="inf") as caught:
        make()
    one_sentence(caught.value)


def test_unknown_names_get_the_nearest_known_one():
    with pytest.raises(UserError, match="no preset 'dmeo'. Did you mean 'demo'"):
        TABLE.resolve("dmeo")
    with pytest.raises(UserError, match="no setting 'alhpa'. Did you mean 'alpha'"):
        TABLE.resolve("demo", {"alhpa": 1.0})
    with pytest.raises(UserError, match="Did you mean 'updates'"):
        TABLE.resolve("demo").changed(update=3)


def test_settings_cannot_be_changed_but_copied_with_changes():
    settings = TABLE.resolve("demo", {"alpha": 1.0})
    with pytest.raises(AttributeError, match="fixed"):
        settings.alpha = 3.0
    other = settings.changed(updates=11)
    assert (settings.updates, other.updates, other.alpha, other.preset) == (10, 11, 1.0, "demo")
    assert copy.copy(settings) == settings == dict(settings)
    with pytest.raises(AttributeError):
        settings.unknown  # noqa: B018


START = TABLE.extended(
    Setting("model", "", "bert", "bert", "a start"), Setting("rate", 0.1, 0.2, 0.3, "learning rate", pretrained=0.01),
    updates={"pretrained": 7},
)  # fmt: skip


def test_a_pretrained_start_has_values_of_its_own_where_the_preset_starts_from_scratch():
    assert (START.resolve("demo").rate, START.resolve("demo").updates, START.resolve("demo").note) == (0.1, 10, "")
    started = START.resolve("demo", {"model": "x"})
    assert (started.rate, started.updates, started.alpha, started.overrides) == (0.01, 7, 5.0, {"model": "x"})
    assert started.note == "A pretrained start has values of its own: updates = 7, rate = 0.01."
    assert started.changed(alpha=1.0).note == started.note
    study = START.resolve("study", {"model": "x"})  # its values are for one already
    assert (study.rate, study.updates, study.note) == (0.2, 20, "")
    assert START.resolve("demo", {"model": ""}).digest == START.resolve("demo").digest != started.digest


def test_the_demos_encoder_is_no_pretrained_start_that_the_values_are_for():
    """Where a preset starts from the demo's encoder, its values are for that; another start has those for it."""
    table = START.extended(model={"demo": "demo", "grammar": "demo", "small": "other"})
    for preset in ("demo", "grammar"):
        own = table.resolve(preset)
        assert (own.model, own.rate, own.updates, own.pretrained, own.note) == ("demo", 0.1, 10, (), "")
        assert table.resolve(preset, {"model": "demo"}).digest == own.digest
        started = table.resolve(preset, {"model": "x"})
        assert (started.model, started.rate, started.updates) == ("x", 0.01, 7)
        assert started.note == "A pretrained start has values of its own: updates = 7, rate = 0.01."
        assert table.resolve(preset, {"model": "x", "rate": 0.1}).rate == 0.1
        scratch = table.resolve(preset, {"model": ""})
        assert (scratch.model, scratch.rate, scratch.pretrained) == ("", 0.1, ())
    assert table.resolve("small", {"model": "x"}).rate == 0.1  # its values are for a pretrained start already
    assert table.resolve("small", {"model": "demo"}).rate == 0.1


def test_the_demos_encoder_in_the_place_of_no_start_leaves_the_values():
    started = START.resolve("demo", {"model": "demo"})
    assert (started.model, started.rate, started.updates, started.note) == ("demo", 0.1, 10, "")


def test_what_is_overridden_wins_over_a_pretrained_start_also_by_the_value_of_the_preset():
    chosen = START.resolve("demo", {"model": "x", "rate": 0.1})
    assert (chosen.rate, chosen.updates, chosen.overrides) == (0.1, 7, {"model": "x", "rate": 0.1})
    assert chosen.note == "A pretrained start has values of its own: updates = 7."
    shown = START.show(chosen)
    assert shown["value"]["rate (changed)"] == 0.1 and shown["value"]["updates (pretrained start)"] == 7
    assert "rate" in START.show(START.resolve("demo")).index


def test_the_digest_names_what_is_computed():
    plain = TABLE.resolve("demo")
    assert len(plain.digest) == 8
    assert plain.digest == TABLE.resolve("demo", {"alpha": "5"}).digest
    assert plain.digest == TABLE.resolve("demo", {"log_every": 1, "tracker": "tensorboard"}).digest
    changed = [{"alpha": 5.1}, {"updates": 11}, {"pair": "de-en"}, {"both": False}]
    digests = {TABLE.resolve("demo", change).digest for change in changed}
    assert len(digests | {plain.digest}) == 5


def test_a_paper_adds_and_replaces_lines_without_touching_the_task():
    longer = TABLE.extended(Setting("beta", 1, 2, 3, "new"), updates={"paper": 99, "source": "Section 4"})
    assert longer.resolve("paper").updates == 99 and longer.resolve("paper").beta == 3
    assert longer.settings["updates"].source == "Section 4" and longer.resolve("demo").updates == 10
    assert TABLE.resolve("paper").updates == 30 and "beta" not in TABLE.resolve("paper")


def test_the_table_shows_value_paper_meaning_and_source():
    shown = TABLE.show(TABLE.resolve("demo", {"alpha": 1.0}))
    assert shown.loc["alpha (changed)", "value"] == 1.0 and shown.loc["alpha (changed)", "paper"] == 3.0
    assert shown.loc["alpha (changed)", "source of the paper's value"] == "Table 7"
    assert shown.loc["updates", "meaning"] == "optimiser steps" and len(shown) == 6


def test_assignments_of_a_command_line():
    assert parse_assignments(["alpha=1", "data=hub:a/b=c", "pair="]) == {"alpha": "1", "data": "hub:a/b=c", "pair": ""}
    for wrong in ("alpha", "=1", ""):
        with pytest.raises(UserError, match="--set takes name=value") as caught:
            parse_assignments([wrong])
        one_sentence(caught.value)
