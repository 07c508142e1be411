"""`fsbench splits`: splits as files that can be shown, shared, used and checked.

`show` and `export` start from a data set, `import` and `verify` compare files with one; lists and
picks are compared with published ones.
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from fewshot_bench.api.dataset import ROLES, DatasetCard, data_roots
from fewshot_bench.api.items import Item
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import IMPORTED
from fewshot_bench.api.split_file import Pools, coop_text, pools_from
from fewshot_bench.api.task import Split
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import NUMBERS, PATH, SHOTS, kept_split_option, store_option
from fewshot_bench.cli.output import say
from fewshot_bench.cli.panels import Command, Option, add_options
from fewshot_bench.cli.working import working
from fewshot_bench.splits import checks
from fewshot_bench.splits.draw import check_train, draw
from fewshot_bench.splits.formats import (
    ENDINGS,
    ours_text,
    place,
    read_split_file,
    refuse_existing,
    text_of,
)
from fewshot_bench.splits.imported import fit_validation, path_of_import, safe_name
from fewshot_bench.splits.model import TITLES, SplitFile, lists_digest, with_setting
from fewshot_bench.splits.published import (
    Lists,
    as_split,
    compare_lists,
    compare_with_draw,
    picks_digest,
    published_splits,
    read_published_draws,
    verify_file,
    verify_picks,
)
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, UsageError, unknown

FILE_ENDINGS = (".json", ".jsonl", ".pkl", ".pickle")
SEEDS = (1, 2, 3)
PUBLISHED_PICKS = {
    None: "nothing is published for this setting",
    True: "equal to the published picks",
    False: "NOT the published picks",
}
OK, FAILED, OPEN = "ok", "FAILED", "-"
# State, name and text of a check.
Check = tuple[str, str, str]


@click.group("splits", cls=LazyGroup)
def command() -> None:
    """Show, export, import and verify splits.

    A split is the lists of a whole data set (train, val, test), or few-shot picks from them.
    """


class Subject(NamedTuple):
    """An open data set: its name as in records, its card and its lists."""

    name: str
    card: DatasetCard
    pools: Pools


def open_dataset(name: str, store: Path) -> Subject:
    """Open the data set of this name; DataMissingError if its images or lists are absent.

    store: own images have the split that it keeps, if any.
    """
    dataset = registry().dataset(name, store=store)
    card, pools = dataset.card(), dataset.items()
    # `folder:a/` and `folder:a` are one data set, under the name that records hold.
    same_family = ":" in name and card.name.partition(":")[0] == name.partition(":")[0]
    lists = {role: pools[role] for role in ROLES if role in pools}
    return Subject(card.name if same_family else name, card, lists)


def find_file(text: str) -> Path | None:
    """The path of a split file; None if `text` names a registered data set.

    A data set's name takes precedence: write `./NAME` for a file of the same name.
    """
    names = registry().datasets.entries
    if text in names or (":" in text and f"{text.partition(':')[0]}:" in names):
        return None
    path = Path(text)
    if path.is_file():
        return path
    if path.suffix in FILE_ENDINGS or path.name != text:
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataMissingError(f"{path} {problem}: expected a split file (docs/how-to/splits.md)")
    raise unknown("data set or split file", text, names, "fsbench list datasets")


def picks_options(command: Command) -> Command:
    """Add the options that select few-shot picks, which `draws_of` reads."""
    how = f"How picks are drawn: {', '.join(SAMPLERS)}."
    held_out = f"Validation images: {', '.join(VALIDATION)}."
    seeds = "Seeds of the picks (default: 1,2,3; with --shots)."
    options: list[click.Option] = [
        Option(["--shots"], type=SHOTS, help="Few-shot picks with this many images a class."),
        Option(["--seeds"], type=NUMBERS, help=seeds),
        Option(["--protocol"], default="coop", show_default=True, help=how),
        Option(["--val"], default="min4", show_default=True, help=held_out),
    ]
    return add_options(command, options)


def draws_of(picks: Mapping[str, Any]) -> Callable[[Subject], Iterator[Split]] | None:
    """A function that draws the requested picks of a data set; None without --shots."""
    if picks["shots"] is None:
        ctx = click.get_current_context()
        for name in ("seeds", "protocol", "val"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--{name} says which picks are meant: add --shots, say 1,2,4,8,16"
                )
        return None
    how = {name: picks[name] for name in ("protocol", "val")}

    def draw_all(subject: Subject) -> Iterator[Split]:
        name, card, pools = subject
        check_train(name, pools, how["val"])
        for shots in picks["shots"]:
            for seed in picks["seeds"] or SEEDS:
                yield draw(name, card.revision, pools, shots=shots, seed=seed, **how)

    return draw_all


def say_fact(label: str, text: str) -> None:
    """Print one aligned line."""
    say(f"  {label:<10} {text}")


def count_images(lists: Mapping[str, Sequence[Item]]) -> str:
    """`64 train, 16 val`."""
    return ", ".join(f"{len(items)} {role}" for role, items in lists.items())


@command.command("show", short_help="Show the lists and few-shot picks of a data set, or a file.")
@click.argument("what", metavar="NAME|FILE", shell_complete=one_of(datasets))
@picks_options
@kept_split_option
@working("splits show", live=False)
def show(what: str, store: Path, **picks: Any) -> None:
    """Show the lists and few-shot picks of a data set, or a split file.

    Prints counts and digests, and whether they are the published ones.
    """
    draws = draws_of(picks)
    path = find_file(what)
    if path is None:
        subject = open_dataset(what, store)
        _show_lists(subject)
        for split in draws(subject) if draws else ():
            _show_picks(split, picks["val"])
    elif draws is not None:
        raise click.UsageError(f"{path} is a file: --shots is for the picks of a data set")
    else:
        _show_file(path)


def _show_lists(subject: Subject) -> None:
    say(f"{subject.name}: {subject.card.title}, {len(subject.card.classnames)} classes")
    for role, items in subject.pools.items():
        say_fact(role, f"{len(items)} images")
    if "val" not in subject.pools:
        say_fact("val", "held out of train, from the images that were not picked")
    say_fact("lists", f"sha256 {lists_digest(subject.pools)}")
    say_fact("published", compare_lists(subject.pools, subject.name).value)


def _show_picks(split: Split, val: str) -> None:
    title = f"{split.shots}-shot, seed {split.seed}, protocol {split.protocol}, val {val}"
    say(f"{split.dataset}: {title}")
    lists = {"train": split.train, "val": split.val}
    for role, items in lists.items():
        say_fact(role, f"{len(items)} images, ids sha256 {picks_digest(items)}")
    say_fact("picks", f"sha256 {lists_digest(lists)}")
    say_fact("split", f"sha256 {split.digest} (with {len(split.test)} test images, as in records)")
    say_fact("published", PUBLISHED_PICKS[verify_picks(split, split.dataset)])


def _show_file(path: Path) -> None:
    file = with_setting(read_split_file(path), None, None)
    checks.check_digest(file)
    say(f"{path}: {TITLES[file.format]}")
    name = f"'{file.dataset}'" if file.dataset else "a data set that is not named"
    if file.is_draw:
        shots = "shots unknown" if file.shots is None else f"{file.shots}-shot"
        seed = "unknown" if file.seed is None else file.seed
        protocol = f", protocol {file.protocol}" if file.protocol else ""
        say_fact("holds", f"picks from {name}: {shots}, seed {seed}{protocol}")
    else:
        say_fact("holds", f"the lists of {name}")
    for role, items in file.lists.items():
        classes = len({item.label for item in items})
        say_fact(role, f"{len(items)} images of {classes} classes")
    say_fact("picks" if file.is_draw else "lists", f"sha256 {file.digest} (ids as written)")
    if file.is_draw:
        step = "fsbench splits import"
        text = f"import it to compare its images with the published picks ({step})"
    else:
        names = [name for name, p in published_splits().items() if p.lists_sha256 == file.digest]
        _, _, text = _compare_with_published(file, "".join(names[:1]))
        if names and verify_file(path.read_bytes(), names[0]):
            text += ", byte for byte"
    say_fact("published", text)


@command.command("export", short_help="Write the lists or few-shot picks of a data set to files.")
@click.argument("name", metavar="NAME", shell_complete=one_of(datasets))
@picks_options
@click.option(
    "--format",
    "form",
    help="fsbench, coop, index or jsonl (default: coop; fsbench with --shots).",
)
@click.option(
    "-O",
    "--output",
    required=True,
    type=PATH,
    metavar="FILE|FOLDER",
    help="Where to write: a file with the ending of its format, or a folder, which is made.",
)
@click.option("--with-test", is_flag=True, help="Write the test list beside the picks, too.")
@kept_split_option
@click.option("--force", is_flag=True, help="Replace files that are there.")
@working("splits export", live=False)
def export(
    name: str,
    form: str | None,
    output: Path,
    with_test: bool,
    store: Path,
    force: bool,
    **picks: Any,
) -> None:
    """Write the lists or few-shot picks of a data set to files.

    Without --shots, the train, val and test lists are written. With --shots, the picks of each
    setting are: files named shot_16-seed_1.json in a folder, or one file.
    """
    draws = draws_of(picks)
    form = form or ("coop" if draws is None else "fsbench")
    if form not in ENDINGS:
        raise unknown("format", form, ENDINGS, "fsbench splits export --help")
    if with_test and (draws is None or form == "index"):
        raise UsageError("--with-test is for picks (--shots) in format fsbench or jsonl")
    subject = open_dataset(name, store)
    if draws is None:
        whole = SplitFile(Path(), "", subject.pools, subject.name, subject.card.revision)
        files = [whole]
    else:
        files = [_split_file(split, with_test) for split in draws(subject)]
    texts = [text_of(file, form, subject.pools) for file in files]
    paths = _targets(files, output, form)
    refuse_existing(paths, force=force)
    for file, path, text in zip(files, paths, texts, strict=True):
        content = text.encode()
        place(path, content, force=force)
        say(f"{path}: {count_images(file.lists)}")
        say(f"  {'picks' if file.is_draw else 'lists'} sha256 {file.digest}")
        if not file.is_draw and verify_file(content, subject.name):
            say("  equal to the published file, byte for byte")


def _split_file(split: Split, with_test: bool) -> SplitFile:
    lists = {"train": split.train, "val": split.val}
    lists |= {"test": split.test} if with_test else {}
    setting = split.protocol, split.shots, split.seed
    return SplitFile(Path(), "", lists, split.dataset, split.revision, *setting)


def _targets(files: list[SplitFile], output: Path, form: str) -> list[Path]:
    """One path per file; UsageError if several files would go into one, or the ending is wrong."""
    ending = f".{ENDINGS[form]}"
    new_folder = not output.suffix and not output.exists()
    if len(files) == 1 and not new_folder and not output.is_dir():
        if output.suffix != ending and not output.exists():
            raise UsageError(
                f"-O {output}: expected a file that ends in {ending} (format {form}), or a "
                "folder, which has no ending"
            )
        return [output]
    if output.suffix == ending or output.is_file():
        raise UsageError(
            f"-O {output}: {len(files)} picks go into {len(files)} files; expected a folder"
        )
    return [output / _file_name(file, ending) for file in files]


def _file_name(file: SplitFile, ending: str) -> str:
    if file.is_draw:
        return f"shot_{file.shots}-seed_{file.seed}{ending}"
    published = published_splits().get(file.dataset)
    if published is not None and Path(published.file).suffix == ending:
        return published.file
    return f"split_{safe_name(file.dataset)}{ending}"


@command.command("import", short_help="Take over the lists or few-shot picks of a file.")
@click.argument("path", metavar="FILE", type=PATH)
@click.option(
    "--dataset",
    required=True,
    metavar="NAME",
    shell_complete=one_of(datasets),
    help="The data set it belongs to.",
)
@click.option("--shots", type=click.IntRange(1), help="Shots of the picks, if not in the file.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the picks, if not in the file.")
@click.option("--name", help="File name for lists, if the file's own is not the data set's.")
@store_option("Store for which picks are imported.")
@click.option("--force", is_flag=True, help="Replace what was imported before.")
@working("splits import", live=False)
def import_file(
    path: Path,
    dataset: str,
    shots: int | None,
    seed: int | None,
    name: str | None,
    store: Path,
    force: bool,
) -> None:
    """Take over the lists or few-shot picks of a file.

    Lists (CoOp's split file) go where the data set looks for them. Picks of any format go into the
    store, for fsbench run --protocol imported.
    """
    registry().expand_datasets([dataset])
    file = with_setting(read_split_file(path), shots, seed)
    checks.check_digest(file)
    # Names with paths vary.
    if file.dataset and file.dataset != dataset and ":" not in file.dataset + dataset:
        raise UsageError(
            f"{path} is a split of '{file.dataset}', not of '{dataset}' (use --dataset "
            f"{file.dataset})"
        )
    if not file.is_draw:
        _import_lists(file, dataset, name, store, force)
    elif name is not None:
        raise UsageError("--name is for the lists of a data set; picks are named by their setting")
    else:
        _import_picks(file, dataset, store, force)


def _import_lists(
    file: SplitFile, dataset: str, name: str | None, store: Path, force: bool
) -> None:
    target = data_roots()[0] / "splits" / _list_name(file, dataset, name)
    if file.format == "coop":
        content = file.path.read_bytes().removeprefix(codecs.BOM_UTF8)
    else:
        lists = {role: file.lists.get(role, ()) for role in ROLES}
        content = coop_text(lists).encode()
        pools_from(file.path, {r: [[i.id, i.label, i.classname] for i in lists[r]] for r in lists})
    new = place(target, content, force=force)
    say(f"{dataset}: {count_images(file.lists)} from {file.path}")
    say_fact("lists", f"sha256 {file.digest}")
    verdict = compare_lists(file.lists, dataset)
    text = verdict.value
    if verdict is Lists.OTHER:
        text += ": numbers on them cannot be compared with published ones"
    bytewise = ", byte for byte" if verify_file(content, dataset) else ""
    say_fact("published", f"{text}{bytewise}")
    say(f"  {'written to' if new else 'is already'} {target}")
    try:
        is_read = lists_digest(open_dataset(dataset, store).pools) == file.digest
    except DataMissingError as error:
        used = f"not yet: {error}"
    else:
        other = f"NO: {dataset} finds another split file before {target}; remove that one"
        used = f"yes, {dataset} reads these lists" if is_read else other
    say_fact("in use", used)


def _list_name(file: SplitFile, dataset: str, name: str | None) -> str:
    """The file name under which a data set looks for its lists."""
    if name is not None and (Path(name).name != name or name in ("", ".", "..")):
        raise UsageError(f"--name {name}: expected a file name without a folder")
    published = published_splits()
    if dataset in published:
        for other, split in published.items():
            if other != dataset and split.lists_sha256 == file.digest:
                raise UsageError(
                    f"{file.path} holds the lists of '{other}' (use --dataset {other})"
                )
        return name or published[dataset].file
    if name is not None:
        return name
    raise UsageError(
        f"'{dataset}' has no split file of a known name: expected one of "
        f"{', '.join(sorted(published))} (or give --name where a plug-in looks for one; "
        "coop:FOLDER uses a split file as it lies)"
    )


def _import_picks(file: SplitFile, dataset: str, store: Path, force: bool) -> None:
    shots, seed = file.shots, file.seed
    if shots is None or seed is None:
        values = {"--shots": shots, "--seed": seed}
        missing = " and ".join(option for option, value in values.items() if value is None)
        raise UsageError(
            f"{file.path} does not say which picks it holds: give {missing}, or name it "
            "shot_16-seed_1"
        )
    subject = open_dataset(dataset, store)
    picks = checks.map_to_items(file, subject.pools, subject.name)
    checks.check_overlap(picks)
    for check in (checks.check_pools, checks.check_shots):
        check(picks, subject.pools, subject.name)
    lists = {"train": picks.lists["train"], "val": picks.lists.get("val", ())}
    stored = SplitFile(
        *(picks.path, picks.format, lists, subject.name, subject.card.revision),
        *(IMPORTED, shots, seed),
    )
    target = path_of_import(store, subject.name, shots, seed)
    new = place(target, ours_text(stored).encode(), force=force)
    say(f"{subject.name}: {shots}-shot, seed {seed}: {count_images(lists)} from {file.path}")
    say_fact("picks", f"sha256 {stored.digest}")
    for label, text in _compare_picks(file, picks, subject):
        say_fact(label, text)
    say(f"  {'written to' if new else 'is already'} {target}")
    policy = fit_validation(lists["val"], shots)
    words = ["fsbench", "run", "--dataset", subject.name, "--protocol", IMPORTED, "--val", policy]
    words += ["--shots", str(shots), "--seeds", str(seed), "--store", str(store)]
    say_fact("use", f"{shlex.join(words)} ...")


def _compare_picks(
    file: SplitFile, picks: SplitFile, subject: Subject
) -> Iterator[tuple[str, str]]:
    """Facts on imported picks: similarity to our own draws, and whether they are published."""
    for name in SAMPLERS:
        yield name, compare_with_draw(picks, subject.pools, name)
    split = as_split(picks, subject.name, "coop")
    yield "published", PUBLISHED_PICKS[verify_picks(split, subject.name)]
    if file.positions:
        try:
            text = checks.check_positions(file, picks, subject.pools, subject.name)
        except DataMissingError as error:
            text = f"NOT used: {error}"
        yield "positions", text
    if "test" in picks.lists:
        same = picks.lists["test"] == tuple(subject.pools.get("test", ()))
        other = f"NOT used: the file's test list is another one than that of {subject.name}"
        yield "test", "the data set's list" if same else other


@command.command("verify", short_help="Check a data set's lists and picks, or a split file.")
@click.argument("what", metavar="NAME|SUITE|FILE", shell_complete=one_of(datasets))
@click.option(
    "--dataset",
    metavar="NAME",
    shell_complete=one_of(datasets),
    help="The data set that a file belongs to.",
)
@kept_split_option
@working("splits verify", live=False)
def verify(what: str, dataset: str | None, store: Path) -> None:
    """Check a data set's lists and picks, or a split file.

    Prints one line per check: ok, FAILED, or - where there is nothing to compare with. The exit
    code is 1 when a check failed, and 3 when a data set is not there.
    """
    suite = registry().datasets.suites().get(what, ())
    path = None if suite else find_file(what)
    absent = False
    if path is not None:
        failed = _report(_check_file(path, dataset, store))
    elif dataset is not None:
        raise click.UsageError(f"--dataset is for a file, and {what} is a data set")
    elif not suite:
        failed = _report(_check_dataset(what, store))
    else:
        failed = False
        for name in suite:
            say(f"{name}:")
            try:
                failed |= _report(_check_dataset(name, store))
            except DataMissingError as error:
                absent = True
                _report([("absent", "data set", str(error))])
    if failed or absent:
        raise click.exceptions.Exit(
            FsbenchError.exit_code if failed else DataMissingError.exit_code
        )


def _report(results: Iterable[Check]) -> bool:
    """Print each check as it completes; returns True if one failed."""
    failed = False
    for state, name, text in results:
        failed |= state == FAILED
        say(f"{state:<7} {name:<12} {' '.join(text.split())}")
    return failed


def _check_dataset(name: str, store: Path) -> Iterator[Check]:
    subject = open_dataset(name, store)
    whole = SplitFile(Path(name), "", subject.pools, dataset=name)
    yield _run_check("overlap", checks.check_overlap, whole)
    yield _run_check("classes", checks.check_classes, whole)
    lists = f"sha256 {lists_digest(subject.pools)}"
    verdict = compare_lists(subject.pools, subject.name)
    if verdict is Lists.UNKNOWN:
        yield OPEN, "published", f"nothing is published for {subject.name}; its lists have {lists}"
        return
    same = verdict is Lists.EQUAL
    text = verdict.value if verdict is Lists.RENAMED else f"{_equal(same)} the published ones"
    yield _state(same), "lists", f"{text}, {lists}"
    for drawn in read_published_draws(subject.name, subject.card.revision, subject.pools):
        text, split = drawn.problem, drawn.split
        if split is not None:
            picks = lists_digest({"train": split.train, "val": split.val})
            text = f"{_equal(drawn.equal)} the published picks, sha256 {picks}"
        yield _state(drawn.equal), "picks", f"{drawn.shots}-shot, seed {drawn.seed}: {text}"


def _check_file(path: Path, dataset: str | None, store: Path) -> Iterator[Check]:
    try:
        file = with_setting(read_split_file(path), None, None)
    except DataMissingError as error:
        yield FAILED, "form", str(error)
        return
    yield OK, "form", TITLES[file.format]
    if file.stated:
        state, name, text = _run_check("digest", checks.check_digest, file)
        yield state, name, text if state == FAILED else f"sha256 {text}, as stated"
    else:
        yield OPEN, "digest", f"the file states none; its lists have sha256 {file.digest}"
    yield _run_check("overlap", checks.check_overlap, file)
    yield _run_check("classes", checks.check_classes, file)
    name = dataset or file.dataset
    if name:
        yield from _check_against(file, name, store)
    elif file.is_draw:
        yield OPEN, "data set", "not compared: give --dataset NAME"
    if not file.is_draw:
        yield _compare_with_published(file, name)


def _check_against(file: SplitFile, name: str, store: Path) -> Iterator[Check]:
    """Check a file against its data set."""
    subject = open_dataset(name, store)
    own = subject.pools, subject.name
    try:
        picks = checks.map_to_items(file, *own)
    except DataMissingError as error:
        yield FAILED, "data set", str(error)
        return
    yield OK, "data set", f"every image is in {subject.name}, with the same label and class name"
    if not file.is_draw:
        return
    # Two spellings of one path are detected only after mapping to the data set's images.
    yield _run_check("images", checks.check_overlap, picks)
    yield _run_check("pools", checks.check_pools, picks, *own)
    if file.positions:
        yield _run_check("positions", checks.check_positions, file, picks, *own)
    if picks.shots is None or picks.seed is None:
        text = "the file does not say which picks it holds (shot_16-seed_1 in its name)"
        yield OPEN, "shots", text
        return
    yield _run_check("shots", checks.check_shots, picks, *own)
    setting = f"{picks.shots}-shot, seed {picks.seed}"
    verdict = None
    if picks.protocol in ("", "coop"):
        verdict = verify_picks(as_split(picks, subject.name, "coop"), subject.name)
    if verdict is None:
        yield OPEN, "published", f"nothing is published to compare {setting} with"
    else:
        yield _state(verdict), "published", f"{setting}: {_equal(verdict)} the published picks"


def _compare_with_published(file: SplitFile, name: str) -> Check:
    """Compare lists with the published ones of the named data set, else of the best match."""
    published = published_splits()
    expected = name or next((n for n, p in published.items() if p.file == file.path.name), "")
    names = [n for n, p in published.items() if p.lists_sha256 == file.digest]
    if names and expected in ("", *names):
        verdict = compare_lists(file.lists, names[0])
        if verdict is Lists.RENAMED:
            return FAILED, "published", f"{names[0]}: {verdict.value}"
    if expected in published:
        same = expected in names
        return _state(same), "published", f"{_equal(same)} the published lists of {expected}"
    if names:
        return OK, "published", f"equal to the published lists of {names[0]}"
    return OPEN, "published", "no published lists to compare with (--dataset NAME)"


def _run_check(name: str, check: Callable[..., str], *arguments: Any) -> Check:
    try:
        return OK, name, check(*arguments)
    except (DataMissingError, UsageError) as error:
        return FAILED, name, str(error)


def _state(verdict: bool) -> str:
    return OK if verdict else FAILED


def _equal(verdict: bool) -> str:
    return "equal to" if verdict else "NOT"
