"""Checks before anything trains: lists and images are usable, and disk and memory suffice.

`check_images` is the entry point for images. `compute_needs` counts upper bounds of disk (results,
features, decoded images) and memory from the plan, data that cells share once; `check_disk` and
`check_memory` compare them with the machine. A run that is bound to fail ends before its first fit.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.class_texts import WAFFLE, find
from fewshot_bench.api.dataset import ROLES, Keeping, Stamped, all_items
from fewshot_bench.api.file_texts import split
from fewshot_bench.api.items import Run, digest_of, label_counts, packed, parts
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import BY_TEMPLATES, RunSpec, canonical_json
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.api.waffle import PAIRS
from fewshot_bench.backbones.weights import local_folder
from fewshot_bench.images.decode import find_unreadable, list_lost_training
from fewshot_bench.images.looking import look_at
from fewshot_bench.splits.draw import class_half, split_key, split_of
from fewshot_bench.splits.sampling import VALIDATION
from fewshot_bench.store.answer_files import estimate_bytes
from fewshot_bench.utils.cache_dir import FEATURES, IMAGES, files, folder_of, limit_bytes, limit_of
from fewshot_bench.utils.errors import ContractError, FsbenchError, PluginError, keys
from fewshot_bench.utils.files import free_bytes
from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.text import plain_text, printable, size_text

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset, DatasetCard
    from fewshot_bench.api.items import Item
    from fewshot_bench.backbones.shape import Shape

SPARE_BYTES = 2**24
UNREADABLE_SHOWN = 5
ALL_CHECKED = 20_000
RECORD_BYTES = 8_192
# Python with torch and the smallest backbone: the least memory observed, and with all libraries.
WORKER_BYTES, LIBRARIES_BYTES = 320 * 2**20, 700 * 2**20
# The label process beside a worker, without logits.
LABELS_BYTES = 128 * 2**20
# File overhead (indices, headers, checksums): factor per feature row, bytes per decoded image.
ROW_SHARE, IMAGE_BYTES = 1.02, 128
# Pages that a file of features takes beside those that its rows fill.
FILE_PAGES = 5
# Kinds of feature rows.
TEST_IMAGES, FITTED_IMAGES = "test images", "train and val images"
UNPROJECTED = "unprojected views"
# A decoded picture in memory, from which crops are cut: 4 bytes per pixel.
PICTURE_BYTES = 4 * 640 * 480


class NoRoomError(FsbenchError):
    """Disk or memory cannot hold what a run needs."""


def check_disk(store: Path, bytes_needed: int) -> None:
    """NoRoomError if the store's file system has too little free space, or does not report it."""
    try:
        free = free_bytes(store)
    except OSError as error:
        raise NoRoomError(
            f"'{store}': cannot tell how much space is left there ({error.strerror}); check that "
            "the disk is there, or choose another store"
        ) from error
    if free < bytes_needed + SPARE_BYTES:
        raise NoRoomError(
            f"the results need up to {size_text(bytes_needed)}, {size_text(SPARE_BYTES)} must stay "
            f"free, and '{store}' has {size_text(free)} left; make room, choose another disk for "
            "the store, or ask for fewer cells"
        )


def check_memory(workers: int, bytes_each: int, devices: int = 1) -> None:
    """NoRoomError if the workers of all devices together do not fit into the free memory."""
    free = free_host_memory()
    if free >= workers * bytes_each:
        return
    fit = free // bytes_each
    if fit >= devices:
        step = f"use --jobs {fit // devices}"
    elif fit:
        step = f"name only {fit} in --device"
    else:
        step = "end other programs, or take a smaller backbone"
    raise NoRoomError(
        f"{workers} workers need {size_text(workers * bytes_each)} of memory or more and "
        f"{size_text(free)} is free; {step}"
    )


def tight_memory(workers: int, most_each: int) -> str:
    """A warning if the workers may come to need more than the free memory; empty otherwise."""
    free = free_host_memory()
    if free >= workers * most_each:
        return ""
    fewer = f"; --jobs {max(1, free // most_each)} is safe" if workers > 1 else ""
    return (
        f"{workers} worker{'s'[: workers != 1]} may take up to {size_text(workers * most_each)} of "
        f"memory and {size_text(free)} is free{fewer}"
    )


def check_items(card: DatasetCard, pools: Mapping[str, Sequence[Item]]) -> None:
    """PluginError for lists that cannot be used, or for classes without train images."""
    check_lists(card, pools)
    trained = label_counts(pools.get("train", ()))
    absent = [title for label, title in enumerate(card.classnames) if label not in trained]
    if trained and absent:
        raise PluginError(
            f"{card.name}: class '{absent[0]}' has no train images ({len(absent)} of "
            f"{len(card.classnames)} classes have none): add some, or take the class out of the "
            "class names"
        )


def check_lists(card: DatasetCard, pools: Mapping[str, Sequence[Item]]) -> None:
    """PluginError for pools of items that contradict the card, or hold an image twice."""
    name, classnames = card.name, card.classnames
    keys(f"{name}: items()", pools, ROLES)
    if card.class_ids and len(set(card.class_ids)) != len(classnames):
        raise PluginError(
            f"{name}: its card has {len(classnames)} class names and {len(set(card.class_ids))} "
            "distinct class_ids: expected one id per class, or none"
        )
    labels: dict[str, int] = {}
    for label, title in enumerate(classnames):
        if not title.strip() or not plain_text(title):
            raise PluginError(
                f"{name}: the class name of label {label} is {title!a}: expected text without "
                "control characters (mend it in the card)"
            )
        if labels.setdefault(title, label) != label and not card.class_ids:
            raise PluginError(
                f"{name}: labels {labels[title]} and {label} are both named '{title}': expected "
                "distinct class names, or class_ids that tell the classes apart"
            )
    for part in (part for items in pools.values() for part in parts(items)):
        if not 0 <= part.label < len(classnames):
            raise PluginError(
                f"{name}: item '{part.ids[0]}' has label {part.label}, expected 0 to "
                f"{len(classnames) - 1} (there are {len(classnames)} class names)"
            )
        if part.classname != classnames[part.label]:
            raise PluginError(
                f"{name}: item '{part.ids[0]}' has label {part.label} and class name "
                f"'{part.classname}', and the card's class {part.label} is "
                f"'{classnames[part.label]}': expected the name of the label (are labels shifted?)"
            )
    for id, first, second in _find_duplicates(pools):
        if first == second:
            raise PluginError(
                f"{name}: item '{id}' is twice in {first}: expected one item per id; take one out"
            )
        raise PluginError(
            f"{name}: item '{id}' is in {first} and in {second}: a test image must not be trained "
            "on; take it out of one pool"
        )


def revision_of(name: str, dataset: Dataset) -> str:
    """Identity of a data set's item lists, as stored in specifications."""
    pools, card = dataset.items(), dataset.card()
    check_items(card, pools)
    lists = digest_of((role, pools.get(role, ())) for role in ROLES)
    if card.revision:
        return f"{card.revision}:{lists[:16]}"
    # Without a revision, the identity also covers all card facts that can change a number.
    said = canonical_json([card.classnames, card.custom_templates, card.identities, card.mirrored])
    return hashlib.sha256(f"{lists}\n{said}".encode()).hexdigest()[:16]


def _find_duplicates(pools: Mapping[str, Sequence[Item]]) -> Iterator[tuple[str, str, str]]:
    """Ids that occur twice, with the roles of both places; compared folder by folder."""
    folders: dict[str, list[tuple[str, Run]]] = {}
    for role, items in pools.items():
        for run in packed(items).runs:
            folders.setdefault(run.folder, []).append((role, run))
    for folder, runs in folders.items():
        first: dict[str, str] = {}
        for role, run in runs:
            for name in run.names.listed():
                if name in first:
                    yield folder + name, first[name], role
                first.setdefault(name, role)


def keep_splits(datasets: Mapping[str, Dataset], where: str, *, but: Container[str] = ()) -> None:
    """Write the splits that data sets made of a user's images: into the store or beside the data.

    Call it before the first cell, whose worker reads them, and after the image check: a damaged
    image must not be in a split that stays. but: data sets with damaged images, which are skipped.
    """
    for name, dataset in datasets.items():
        if name not in but and isinstance(dataset, Keeping):
            dataset.keep_split(beside=where == "data")


def check_images(
    datasets: Mapping[str, Dataset],
    cells: Sequence[RunSpec],
    warn: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Decode images not verified before; returns a problem for each data set with bad images.

    Checks all images of a data set of up to `ALL_CHECKED`, else those that `cells` use. `warn` is
    called once if the findings cannot be cached for the next run, `note` with what a person should
    know of own images.
    """
    limit_bytes()
    problems: dict[str, str] = {}
    unkept: list[str] = []
    used = [name for cell in cells for name in (cell.dataset, cell.target) if name]
    for name in dict.fromkeys(used):
        try:
            items = _list_checked(name, datasets, cells)
            bad, turned, trouble = find_unreadable(datasets[name], items)
        except FsbenchError as error:
            problems[name] = str(error)
            continue
        unkept += [trouble] if trouble else []
        if bad:
            problems[name] = _unusable(name, datasets[name], bad)
        elif ":" in name and len(items) <= ALL_CHECKED:
            roles, listed = zip(*all_items(datasets[name]), strict=True)
            looks = look_at(datasets[name], listed)
            for line in (*looks.lines(), *looks.across(roles)):
                note(f"{name}: {line}")
        elif turned:
            note(f"{name}: {turned:,} of {len(items):,} images have an EXIF orientation (--exif)")
    if unkept:
        warn(unkept[0])
    return problems


def long_prompts(datasets: Mapping[str, Dataset], cells: Iterable[RunSpec]) -> Iterator[str]:
    """A warning for each data set with prompts of more tokens than the text encoder reads."""
    from fewshot_bench.backbones.shape import too_long

    read = (cell for cell in cells if cell.texts == BY_TEMPLATES)
    used = {(cell.target or cell.dataset, cell.prompts, cell.backbone): None for cell in read}
    for name, prompts, backbone in used:
        card = datasets[name].card()
        asked = Vocabulary(card.classnames, card.templates(prompts))
        texts = [text for template in asked.templates for text in asked.prompts(template)]
        if lengths := too_long(backbone, texts):
            longest = max(lengths, key=lambda text: lengths[text])
            example = f"{lengths[longest]} ('{longest[:60]}...')"
            yield (
                f"{name}: {len(lengths):,} of {len(texts):,} prompts have more tokens than the "
                f"text encoder of {backbone} reads, the longest {example}: cells of "
                "methods that encode them fail; shorten the class names (--classnames) "
                "or the templates"
            )


def _unusable(name: str, dataset: Dataset, bad: Mapping[str, str]) -> str:
    """The message for bad images, with the next step; names training classes that lose them all."""
    lines = [f"{id}: {reason}" for id, reason in bad.items()]
    rest = len(lines) - UNREADABLE_SHOWN
    more = f"; and {rest} more" if rest > 0 else ""
    lost = list_lost_training(dataset, bad)
    whole = f", {lost} among them" if lost else ""
    # Nothing can be trained on a class without images.
    skip = "" if lost else "; --skip-damaged goes on without them"
    folder = dataset.card().folder
    below = f" below {folder}" if folder else ""
    return (
        f"{name}: {len(lines)} of its images cannot be used{whole}: "
        f"{'; '.join(lines[:UNREADABLE_SHOWN])}{more}; mend or restore these files"
        f"{below} (fsbench data verify {shlex.quote(name)} lists all{skip})"
    )


def _list_checked(
    name: str, datasets: Mapping[str, Dataset], cells: Sequence[RunSpec]
) -> list[Item]:
    """The images to check of a data set that cells are fitted on, or evaluated on."""
    pools = datasets[name].items()
    if sum(len(pool) for pool in pools.values()) <= ALL_CHECKED:
        return [item for pool in pools.values() for item in pool]
    items: dict[str, Item] = {}
    for cell in {split_key(cell): cell for cell in cells}.values():
        if cell.dataset == name or cell.target == name:
            # Imported picks are checked as they are used.
            split = split_of(cell, datasets)
            evaluated = split.test if name == (cell.target or cell.dataset) else ()
            fitted = (*split.train, *split.val) if name == cell.dataset else ()
            items |= {item.id: item for item in (*fitted, *evaluated)}
    return list(items.values())


@dataclass(frozen=True)
class Needs:
    """Upper bounds in bytes; `least`: the memory that a worker takes in any case.

    results: records and kept logits. features: feature rows, each counted once; `rows`: their
    number by kind. images: decoded images. worker: memory of a worker and its label process,
    without what the method keeps while it trains. silent: methods that do not declare how many
    views they draw.
    """

    results: int
    features: int
    rows: Mapping[str, int]
    images: int
    worker: int
    least: int
    silent: tuple[str, ...] = ()

    def lines(self, workers: int, store: Path, budget: int | None) -> Iterator[str]:
        """The lines of --dry-run, by kind of resource; budget: `Settings.feature_budget`."""
        rows = ", ".join(f"{count:,} of {kind}" for kind, count in self.rows.items() if count)
        yield f"needs up to {size_text(self.results)} of disk for results"
        kept = f"up to {size_text(self.features)} of disk: {rows}"
        yield f"features: {kept if rows else 'none'}"
        yield from self.list_shrunk(store, budget)
        if self.silent:
            names = ", ".join(self.silent)
            yield f"features: views of {names} are not counted (no views_per_image)"
        bound = limit_of(IMAGES, None, 0)
        most = f" of {size_text(bound[0])} ({bound[1]})" if bound else ""
        yield f"decoded images: up to {size_text(self.images)}{most} of disk"
        yield (
            f"memory: {size_text(workers * self.least)} or more, up to "
            f"{size_text(self.worker)} for each of {workers} worker{'s'[: workers != 1]} with its "
            "label process, beside what training keeps (at most 40 % of the free memory for each "
            "encoder that learns, in all workers together)"
        )

    def list_shrunk(self, store: Path, budget: int | None) -> Iterator[str]:
        """A sentence on the consequences if not all features can be kept."""
        folder = folder_of(FEATURES, store)
        assert folder is not None
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        used = sum(file.size for file in files(FEATURES, folder))
        bound = (budget, "--feature-budget") if budget is not None else None
        bound = bound or limit_of(FEATURES, existing, used)
        if bound and bound[0] < self.features:
            yield (
                f"features: {size_text(bound[0])} may be kept ({bound[1]}): views beyond that "
                "stream through, and every fit that draws them encodes its own"
            )


def compute_needs(
    cells: Sequence[RunSpec], datasets: Mapping[str, Dataset], kept: str = ""
) -> Needs:
    """Disk and memory for these cells; kept: `Settings.keep_logits`."""
    from fewshot_bench.images.feature_files import PAGE, kept_row_bytes

    counts = count(cells, datasets)
    rows, distinct = distinct_rows(counts), Counter[str]()
    features = images = 0
    for (kind, backbone, precision, *_), number in rows.items():
        distinct[kind] += number
        width = _row_width(_shape(backbone), unprojected=kind == UNPROJECTED)
        features += int(ROW_SHARE * number * kept_row_bytes(width, precision))
        features += FILE_PAGES * PAGE if number else 0
    for (_, backbone, _, _, name), number in rows.items():
        if name in datasets and isinstance(datasets[name], Stamped):
            height, width = _shape(backbone).image
            images += number * (3 * height * width + IMAGE_BYTES)
    results = [RECORD_BYTES + estimate_bytes(c.queries, c.classes, kept) for c in counts]
    return Needs(
        results=sum(results),
        features=features,
        rows=distinct,
        images=images,
        worker=max((of.memory() for of in counts), default=LIBRARIES_BYTES),
        least=WORKER_BYTES + max((_weights(cell.backbone) for cell in cells), default=0),
        silent=tuple(dict.fromkeys(c.cell.method for c in counts if c.fit.views is None)),
    )


def count(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> list[Counts]:
    """The counts of each cell."""
    sizes = {name: _Pools.of(dataset) for name, dataset in datasets.items()}
    fits: dict[Hashable, _Fit] = {}
    return [Counts.of(cell, sizes, fits) for cell in cells]


def distinct_rows(counts: Sequence[Counts]) -> Mapping[tuple[str, ...], int]:
    """Feature rows by kind, backbone, precision, EXIF and data set; shared images count once."""
    queries: dict[tuple[str, ...], int] = defaultdict(int)
    drawn: dict[tuple[str, ...], dict[Any, int]] = defaultdict(dict)
    views: dict[tuple[str, ...], dict[Any, int]] = defaultdict(dict)
    for count in counts:
        cell = count.cell
        about = cell.backbone, cell.precision, cell.exif
        key = (TEST_IMAGES, *about, cell.target or cell.dataset)
        queries[key] = max(queries[key], count.queries)
        drawn[FITTED_IMAGES, *about, cell.dataset][split_key(cell)] = count.fitted
        fit = cell.method, cell.shots, cell.split_seed, cell.train_seed, cell.classes
        kind = UNPROJECTED if count.fit.unprojected else "views"
        own = views[kind, *about, f"views of {cell.dataset}"]
        own[fit] = max(own.get(fit, 0), count.support * (count.fit.views or 0))
        asked = views["views", *about, f"views of {cell.target or cell.dataset}"]
        seed = TEST_IMAGES, cell.train_seed, cell.classes
        asked[seed] = max(asked.get(seed, 0), count.queries * (cell.views - 1))
        prompts = f"prompts of {cell.target or cell.dataset} {cell.prompts} {cell.classes}"
        queries["prompts", *about, prompts] = count.prompts
    pools = {count.cell.dataset: count.pool for count in counts}
    fitted = {
        key: min(pools[key[-1]], sum(counts_by_split.values()))
        for key, counts_by_split in drawn.items()
    }
    return {
        **queries,
        **fitted,
        **{key: sum(counts_by_split.values()) for key, counts_by_split in views.items()},
    }


@dataclass(frozen=True)
class _Pools:
    """Sizes of a data set: images in each pool, and classes."""

    train: int
    val: int
    test: int
    classes: int
    dataset: Dataset

    @classmethod
    def of(cls, dataset: Dataset) -> _Pools:
        pools = dataset.items()
        train, val, test = (len(pools.get(role, ())) for role in ("train", "val", "test"))
        return cls(train, val, test, len(dataset.card().classnames), dataset)

    def part(self, half: str) -> int:
        """Number of classes in `half`: base, new or all."""
        return len(class_half(self.classes, half))


@dataclass(frozen=True)
class _Fit:
    """Declarations of a method about a fit: views of each support image, and bytes that it holds.

    views: None if not declared. unprojected: view features are taken before the projection.
    """

    views: int | None
    held: int
    unprojected: bool

    @classmethod
    def of(cls, cell: RunSpec, support: int, shots: int, classes: int) -> _Fit:
        """The declarations for `support` images; ContractError for one that cannot be read."""
        method = registry().method_class(cell.method)(**open_files(cell.options))
        unprojected = bool(getattr(method, "unprojected_views", False))
        width = _row_width(_shape(cell.backbone), unprojected=unprojected)
        held = _ask_method(cell, method, "fit_bytes", support, classes, width) or 0
        return cls(_ask_method(cell, method, "views_per_image", shots, classes), held, unprojected)


@dataclass(frozen=True)
class Counts:
    """Upper bounds for one cell: images and prompts that it encodes, and what its method declares.

    pool: train and val images of its data set.
    """

    cell: RunSpec
    support: int
    val: int
    queries: int
    classes: int
    prompts: int
    pool: int
    fit: _Fit

    @classmethod
    def of(
        cls,
        cell: RunSpec,
        sizes: Mapping[str, _Pools],
        fits: dict[Hashable, _Fit],
    ) -> Counts:
        """fits: a cache, since most cells share method and options."""
        fitted, asked = sizes[cell.dataset], sizes[cell.target or cell.dataset]
        own = fitted.part("all" if cell.classes == "all" else "base")
        shots = int(min(cell.shots, fitted.train))
        held = VALIDATION[cell.val](shots)
        val = fitted.val or fitted.train
        classes = asked.part("all" if cell.target else cell.classes)
        card = asked.dataset.card()
        prompts = classes * len(card.templates(cell.prompts))
        if cell.texts == WAFFLE:
            prompts = classes * 2 * PAIRS
        if split(cell.texts)[0]:
            prompts = sum(map(len, find(cell.texts).section(card.name).values()))
        support = min(fitted.train, shots * own)
        fit = cell.method, canonical_json(dict(cell.options)), cell.backbone, support, shots, own
        if fit not in fits:
            fits[fit] = _Fit.of(cell, support, shots, own)
        return cls(
            cell=cell,
            support=support,
            val=val if held is None else min(val, held * own),
            queries=asked.test if cell.limit is None else min(asked.test, cell.limit),
            classes=classes,
            prompts=prompts,
            pool=fitted.train + fitted.val,
            fit=fits[fit],
        )

    @property
    def fitted(self) -> int:
        """Number of images used by the fit."""
        return self.support + self.val

    def memory(self) -> int:
        """Upper bound in bytes for a worker and its label process, without what training keeps."""
        from fewshot_bench.images import feature_cache, held
        from fewshot_bench.training.batches import VIEW_BYTES

        shape = _shape(self.cell.backbone)
        row = 4 * shape.width
        # Three copies: as computed, at unit length, and in the requested order.
        features = 3 * row * (self.queries + self.fitted + self.prompts)
        view = 4 * _row_width(shape, unprojected=self.fit.unprojected)
        views = 3 * max(VIEW_BYTES, view * self.support) if self.fit.views != 0 else 0
        kept = min(feature_cache.MEMORY, view * self.support * (self.fit.views or self.fitted))
        crops = self.fit.views != 0
        pictures = min(held.LEAST, PICTURE_BYTES * self.support) if crops else 0
        # Three copies in each process: to change, to send or to order, and the result.
        logits = 6 * 4 * self.queries * self.classes
        weights = 2 * max(shape.weights, _weights(self.cell.backbone))
        both = LIBRARIES_BYTES + LABELS_BYTES
        beside = views + self.fit.held + kept + pictures
        return both + weights + features + beside + logits


def _ask_method(cell: RunSpec, method: object, name: str, *sizes: int) -> int | None:
    """The number that a function of a cell's method returns; None if there is no such function.

    ContractError if it raises, or returns anything but an int of at least 0.
    """
    function = getattr(method, name, None)
    if function is None:
        return None
    call = f"{cell.method}.{name}({', '.join(map(str, sizes))})"
    try:
        count = function(*sizes)
    except (Exception, SystemExit) as error:
        reason = f"raised {type(error).__name__}: {printable(str(error), 160)}"
        raise ContractError(f"{call} {reason}; mend it, or leave it out") from error
    if type(count) is not int or count < 0:
        raise ContractError(f"{call} returned {count!r:.80}, expected an int of at least 0")
    return count


@functools.cache
def _shape(backbone: str) -> Shape:
    from fewshot_bench.backbones.shape import shape_of

    return shape_of(backbone)


def _row_width(shape: Shape, *, unprojected: bool) -> int:
    return max(shape.width, shape.tower) if unprojected else shape.width


def _weights(backbone: str) -> int:
    """Size in bytes of a local weights file (in a folder, the largest file); 0 if none."""
    folder = local_folder(backbone)
    _, at, file = backbone.partition("@")
    try:
        if folder:
            return max(path.stat().st_size for path in folder.iterdir())
        return Path(file).expanduser().stat().st_size if at else 0
    except (OSError, ValueError):
        return 0
