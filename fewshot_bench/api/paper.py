"""`Paper`: what to cite for a method, a data set or a backbone, and its BibTeX entry."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fewshot_bench.utils.errors import ContractError, texts, whole_number
from fewshot_bench.utils.version import __version__

# Type of the entry and full name of venues; any other venue is printed as it is.
_CONFERENCES = {
    "AAAI": "AAAI Conference on Artificial Intelligence",
    "ACL": "Annual Meeting of the Association for Computational Linguistics",
    "BMVC": "British Machine Vision Conference",
    "CVPR": "Conference on Computer Vision and Pattern Recognition",
    "CVPR Workshops": "Conference on Computer Vision and Pattern Recognition Workshops",
    "ECCV": "European Conference on Computer Vision",
    "EMNLP": "Conference on Empirical Methods in Natural Language Processing",
    "ICCV": "International Conference on Computer Vision",
    "ICCV Workshops": "International Conference on Computer Vision Workshops",
    "ICLR": "International Conference on Learning Representations",
    "ICML": "International Conference on Machine Learning",
    "ICVGIP": "Indian Conference on Computer Vision, Graphics and Image Processing",
    "NeurIPS": "Advances in Neural Information Processing Systems",
    "WACV": "Winter Conference on Applications of Computer Vision",
}
_JOURNALS = {
    "IJCV": "International Journal of Computer Vision",
    "JSTARS": "IEEE Journal of Selected Topics in Applied Earth Observations and Remote Sensing",
    "TMLR": "Transactions on Machine Learning Research",
    "TPAMI": "IEEE Transactions on Pattern Analysis and Machine Intelligence",
}
_KEY = re.compile(r"[A-Za-z][\w:+./-]*", re.ASCII)
_SPECIAL = re.compile(r"([&%$#_])")
# Not that of `Few-Shot`, which styles may change.
_INNER_CAPITAL = re.compile(r"(?<=[^\W_])[A-Z]")
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Paper:
    """A publication, with the facts of its BibTeX entry.

    title: as printed. authors: all, in order, as BibTeX reads names: `Given Family`, or `Family,
        Given` if the family has several words; an organization in braces. year, venue: of the
        publication (`CVPR`, `IJCV`), of the preprint where there is no other (`arXiv`). url: where
        it can be read. code: the authors' own repository. key: of the entry; by default the first
        family, the year and the first word of the title.

    Example: `Paper("Low-Rank Adaptation", ("Maxime Zanella", "Ben Ayed, Ismail"), 2024)`.

    >>> Paper("A Title", ("Ada Lovelace",), 2026, venue="CVPR")
    """

    title: str
    authors: tuple[str, ...]
    year: int
    venue: str = ""
    url: str = ""
    code: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        """ContractError for values of another type, unbalanced braces or an impossible key."""
        texts("Paper", (self.title, self.venue, self.url, self.code, self.key))
        texts("Paper.authors", self.authors)
        whole_number("Paper.year", self.year, 1900)
        names = self.authors
        listed = isinstance(names, tuple) and names and all(map(str.strip, names))
        if not listed or any(" and " in name and not name.startswith("{") for name in names):
            raise ContractError(f"Paper.authors is {names!r:.80}, expected a tuple of single names")
        if not self.title.strip():
            raise ContractError("Paper.title is empty, expected the title of the paper")
        for text in (self.title, *names, self.venue, self.url, self.code):
            if "\n" in text or not _is_balanced(text):
                raise ContractError(f"Paper has {text!r:.80}, expected a line, its braces in pairs")
        if not self.key:
            object.__setattr__(self, "key", self._default_key())
        if not _KEY.fullmatch(self.key):
            raise ContractError(
                f"Paper.key is {self.key!r:.80}, expected letters and digits: zhou2022learning"
            )

    def _default_key(self) -> str:
        words = [_plain(word) for word in re.split(r"[\s\-]+", self.title)]
        first = next((word for word in words if word and word not in _ARTICLES), "")
        return f"{_plain(family(self.authors[0])) or 'paper'}{self.year}{first}"

    @property
    def who(self) -> str:
        """The families of one or two authors, else the first: `Zhou et al.`."""
        families = [family(name) for name in self.authors]
        return f"{families[0]} et al." if len(families) > 2 else " and ".join(families)

    @property
    def label(self) -> str:
        """Authors and year: `Zhou et al. 2022`."""
        return f"{self.who} {self.year}"

    @property
    def place(self) -> str:
        """Venue and year: `CVPR 2022`."""
        return f"{self.venue} {self.year}".lstrip()

    @property
    def long_label(self) -> str:
        """Authors, venue and year: `Zhou et al., CVPR 2022`."""
        return f"{self.who}, {self.place}"

    @property
    def citation(self) -> str:
        """Authors, title, venue and year on one line."""
        return f"{self.who}, {self.title}, {self.place}"

    def lines(self) -> Iterator[str]:
        """The lines of `fsbench show`."""
        yield f"paper: {self.citation}"
        yield from (
            f"{name}: {url}" for name, url in (("read", self.url), ("code", self.code)) if url
        )

    def bibtex(self) -> str:
        """The BibTeX entry, which ends with a line break."""
        kind, where, venue = "misc", "howpublished", self.venue
        if venue in _CONFERENCES:
            kind, where = "inproceedings", "booktitle"
        elif venue in _JOURNALS:
            kind, where = "article", "journal"
        if kind != "misc":
            venue = f"{(_CONFERENCES | _JOURNALS)[venue]} ({venue.split()[0]})"
        fields = {
            "title": " ".join(_with_names_kept(_escape(self.title).split())),
            "author": " and ".join(map(_escape, self.authors)),
            where: _escape(venue),
            "year": str(self.year),
            "url": self.url.replace("{", "%7B").replace("}", "%7D"),
        }
        lines = [f"  {name} = {{{text}}},\n" for name, text in fields.items() if text]
        return f"@{kind}{{{self.key},\n{''.join(lines)}}}\n"


def as_papers(where: str, given: Paper | Iterable[Paper]) -> tuple[Paper, ...]:
    """One paper or several as a tuple; ContractError for anything else, and for equal keys."""
    papers = (given,) if isinstance(given, Paper) else given
    if not isinstance(papers, tuple | list) or not all(
        isinstance(paper, Paper) for paper in papers
    ):
        raise ContractError(f"{where} is {given!r:.80}, expected a Paper, or a tuple of Papers")
    keys = [paper.key for paper in papers]
    for key in keys:
        if keys.count(key) > 1:
            raise ContractError(f"{where} has two papers with the key '{key}': name another key")
    return tuple(papers)


def entries_of(papers: Iterable[Paper]) -> dict[str, str]:
    """The BibTeX entries of papers by key."""
    return {paper.key: paper.bibtex() for paper in papers}


def family(name: str) -> str:
    """The family name of an author in one of BibTeX's forms: `de Charette` of `R. de Charette`."""
    if name.startswith("{"):
        return name.strip("{}")
    before, comma, _ = name.partition(",")
    if comma:
        return before.strip()
    words = name.split()
    particles = [index for index, word in enumerate(words[1:], 1) if word.islower()]
    return " ".join(words[particles[0] if particles else -1 :])


def _plain(text: str) -> str:
    """The ASCII letters and digits of a text, in lower case."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", folded.lower())


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text.replace("~", r"{\textasciitilde}"))


def _with_names_kept(words: Sequence[str]) -> Iterator[str]:
    """The words of a title, in braces where a style must not change capitals: `{CLIP}`."""
    for index, word in enumerate(words):
        name = word.rstrip(":;,.?!")
        is_name = _INNER_CAPITAL.search(name) or (index == 0 and word.endswith(":"))
        yield f"{{{name}}}{word[len(name) :]}" if is_name else word


def _is_balanced(text: str) -> bool:
    depth = 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0 and not text.endswith("\\")


# This tool; `python -m scripts.generate_docs` writes CITATION.cff from it.
THIS_TOOL = Paper(
    f"fewshot_bench {__version__}: one fair harness for few-shot adaptation of vision-language "
    "models",
    ("{fewshot_bench contributors}",),
    2026,
    venue="Software",
    url="https://fewshot-bench.github.io/",
    code="https://github.com/fewshot-bench/fewshot_bench",
    key="fewshot-bench",
)
