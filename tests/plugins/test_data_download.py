"""Downloads from servers of every kind: verified, resumed, retried, or rejected."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_server import serving
from tests.support.preparing import Shop, below, images, sha256, tar

TREE = images()
WARES = below("wares", TREE)
BIG = tar(images(3, 300_000))


def test_an_honest_server_is_asked_once_and_the_archive_is_unpacked(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE))])
    result = shop.prepare()
    assert (result.code, shop.tree()) == (0, WARES), result
    assert "SHA-256 as expected" in result.out
    assert "3 files" in result.out
    assert "next: fsbench data verify wares" in result.out
    again = shop.prepare()
    assert again.code == 0
    assert "already at" in again.out
    assert shop.site.asked("/wares.tar.gz") == [""]
    assert not (shop.root / "downloads").exists()


def test_a_file_without_digest_is_said_to_be_not_verified(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), sha256="")])
    result = shop.prepare()
    assert result.code == 0
    assert "not verified" in result.out


@pytest.mark.parametrize(
    "how", [{"etag": True}, {"etag": False, "modified": True}, {"etag": False}]
)
def test_a_cut_connection_is_resumed_where_it_stopped(shop: Shop, how: dict[str, Any]) -> None:
    shop.sell([shop.archive(BIG, cut=400_000, cuts=1, **how)])
    result = shop.prepare()
    assert result.code == 0, result
    assert shop.site.asked("/wares.tar.gz") == ["", "bytes=400000-"]
    assert "the connection was cut after 400,000 of" in result.out


def test_without_range_a_cut_download_starts_over(shop: Shop) -> None:
    shop.sell([shop.archive(BIG, cut=400_000, cuts=1, ranges=False)])
    assert shop.prepare().code == 0
    assert len(shop.site.asked("/wares.tar.gz")) == 2
    assert len(shop.tree()) == 3


def test_a_download_that_never_ends_is_kept_for_the_next_call(shop: Shop) -> None:
    shop.sell([shop.archive(BIG, cut=1000)])
    result = shop.prepare()
    assert result.code == 3
    assert "after 4 attempts" in result.out
    assert shop.part().stat().st_size == 4000
    assert shop.tree() == {}
    shop.site.put("/wares.tar.gz", BIG)
    assert shop.prepare().code == 0
    assert shop.site.asked("/wares.tar.gz")[-1] == "bytes=4000-"
    assert len(shop.tree()) == 3


@pytest.mark.parametrize("how", [{"etag": True, "sha256": ""}, {"etag": False}])
def test_parts_of_two_versions_are_never_mixed(shop: Shop, how: dict[str, Any]) -> None:
    second = images(3, 200_000)
    shop.sell([shop.archive(BIG, cut=1000, **how)])
    assert shop.prepare().code == 3
    shop.sell([shop.archive(tar(second), **how)])
    assert shop.prepare().code == 0
    assert "bytes=4000-" in shop.site.asked("/wares.tar.gz")
    assert shop.tree() == below("wares", second)


def test_a_part_of_unknown_origin_is_not_continued(shop: Shop) -> None:
    shop.sell([shop.archive(BIG)])
    shop.part().parent.mkdir(parents=True)
    shop.part().write_bytes(b"x" * 500)
    assert shop.prepare().code == 0
    url = f"{shop.site.address}/wares.tar.gz"
    for note in ("{", json.dumps({"url": url}), json.dumps([url, "", "", 5])):
        shutil.rmtree(shop.root)
        shop.part().parent.mkdir(parents=True)
        shop.part().write_bytes(b"x" * 500)
        shop.part().with_name("wares.tar.gz.part.json").write_text(note)
        assert shop.prepare().code == 0
    assert set(shop.site.asked("/wares.tar.gz")) == {""}


def test_a_wrong_digest_is_named_removed_and_the_next_source_is_tried(shop: Shop) -> None:
    good, bad = tar(TREE), tar(images())
    urls = [shop.site.put("/bad.tgz", bad), shop.site.put("/good.tgz", good)]
    shop.sell([shop.archive(good, urls=urls)])
    result = shop.prepare()
    assert (result.code, shop.tree()) == (0, WARES)
    for part in ("wares.tar.gz", urls[0], sha256(good), sha256(bad)):
        assert part in result.out
    shutil.rmtree(shop.root)
    shop.sell([shop.archive(good, urls=urls[:1])])
    result = shop.prepare()
    assert result.code == 3
    assert sha256(bad) in result.out
    assert not list(shop.root.rglob("*.part*"))
    assert shop.tree() == {}


def test_a_wrong_md5_or_size_is_refused_too(shop: Shop) -> None:
    content = tar(TREE)
    shop.sell([shop.archive(content, sha256="", md5="0" * 32)])
    assert "its MD5 is" in shop.prepare().out
    shop.sell([shop.archive(content, sha256="", size=len(content) + 1)])
    assert f"{len(content):,} bytes, expected {len(content) + 1:,}" in shop.prepare().out
    shop.sell([shop.archive(content, sha256="", size=len(content) + 1, length=False)])
    assert f"{len(content):,} bytes, expected {len(content) + 1:,}" in shop.prepare().out
    assert shop.tree() == {}


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_an_html_page_is_never_taken_for_the_file(shop: Shop, kind: str) -> None:
    page = b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"
    shop.sell([shop.archive(page, sha256="", kind=kind)])
    result = shop.prepare()
    assert result.code == 3
    assert "an HTML page came in place of wares.tar.gz" in result.out
    assert not list(shop.root.rglob("wares.tar.gz*"))


def test_redirects_are_followed_and_other_schemes_are_not(shop: Shop, tmp_path: Path) -> None:
    shop.site.put("/there.tgz", tar(TREE))
    secret = tmp_path / "secret.tgz"
    secret.write_bytes(tar(TREE))
    shop.sell([shop.archive(tar(TREE), redirect="/there.tgz", sha256="")])
    assert shop.prepare().code == 0
    shutil.rmtree(shop.root)
    for target in (secret.as_uri(), "ftp://127.0.0.1/x", "data:,x"):
        shop.sell([shop.archive(b"", redirect=target, sha256="")])
        result = shop.prepare()
        assert result.code == 3
        assert "is refused: expected http:// or https://" in result.out
        shop.sell([shop.archive(b"", urls=[target], sha256="")])
        assert "is refused: expected http:// or https://" in shop.prepare().out
    shop.sell([shop.archive(b"", redirect="/wares.tar.gz", sha256="")])
    assert shop.prepare().code == 3
    assert shop.tree() == {}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_https_to_http_needs_a_known_digest(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    request += ["-addext", "subjectAltName=IP:127.0.0.1"]
    request += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *request], check=True, capture_output=True)

    def secure(server: ThreadingHTTPServer) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        return "https"

    down, content = shop.site.put("/there.tgz", tar(TREE)), tar(TREE)
    shop.site.put("/there.tgz", content)
    with serving(secure) as site:
        url = site.put("/wares.tar.gz", b"", redirect=down)
        shop.sell([shop.archive(content, urls=[url], sha256="")])
        assert "the certificate is not valid" in shop.prepare().out
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert "redirects from https to http" in shop.prepare().out
        assert shop.tree() == {}
        shop.sell([shop.archive(content, urls=[url])])
        assert (shop.prepare().code, shop.tree()) == (0, WARES)


def test_temporary_errors_are_tried_again_and_others_are_not(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), failure=503, failures=2)])
    assert shop.prepare().code == 0
    assert len(shop.site.asked("/wares.tar.gz")) == 3
    shutil.rmtree(shop.root)
    shop.site.requests.clear()
    urls = [f"{shop.site.address}/gone", shop.site.put("/down", b"", failure=503)]
    shop.sell([shop.archive(tar(TREE), urls=urls)])
    result = shop.prepare()
    assert result.code == 3
    assert "HTTP 404" in result.out
    assert "HTTP 503" in result.out
    assert len(shop.site.asked("/gone")) == 1
    assert len(shop.site.asked("/down")) == 4


def test_a_silent_server_is_left_after_the_timeout(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_HTTP_TIMEOUT", "1")
    slow = shop.site.put("/slow", BIG, piece=1000, hold=1000)
    shop.sell([shop.archive(tar(TREE), urls=[slow, shop.site.put("/quick", tar(TREE))], sha256="")])
    result = shop.prepare()
    assert result.code == 0
    assert "no answer within 1 s (FSBENCH_HTTP_TIMEOUT)" in result.out
    monkeypatch.setenv("FSBENCH_HTTP_TIMEOUT", "soon")
    shutil.rmtree(shop.root)
    result = shop.prepare()
    assert result.code == 2
    assert "expected a number of seconds" in result.err


def test_a_slow_server_that_goes_on_is_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_HTTP_TIMEOUT", "0.5")
    shop.sell([shop.archive(BIG, piece=100_000, pause=0.1)])
    assert shop.prepare().code == 0


def test_a_dead_server_and_a_dead_name_are_said(shop: Shop) -> None:
    urls = ["http://127.0.0.1:9/wares", "http://no-such-host.invalid/wares"]
    shop.sell([shop.archive(tar(TREE), urls=urls)])
    result = shop.prepare()
    assert result.code == 3
    assert "the connection failed" in result.out
    assert "cannot be looked up" in result.out
    assert "Traceback" not in result.out + result.err


def test_a_body_that_never_ends_is_cut_off_and_the_next_source_tried(shop: Shop) -> None:
    content = tar(TREE)
    endless = shop.site.put("/endless", content + b"\0" * 500_000, length=False)
    good = shop.site.put("/good", content)
    shop.sell([shop.archive(content, urls=[endless, good], size=len(content))])
    result = shop.prepare()
    assert (result.code, shop.tree()) == (0, WARES), result
    assert f"it goes on after {len(content):,} bytes" in result.out


def test_an_encoding_that_was_not_asked_for_is_refused(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), encoding="gzip", sha256="")])
    result = shop.prepare()
    assert result.code == 3
    assert "it came encoded as gzip" in result.out + result.err


def test_the_rest_of_another_version_is_not_appended(shop: Shop) -> None:
    shop.sell([shop.archive(BIG, cut=400_000, cuts=1, careless=True)])
    result = shop.prepare()
    assert result.code == 0, result
    assert shop.site.asked("/wares.tar.gz") == ["", "bytes=400000-", ""]


def test_what_a_server_says_is_no_command_to_the_terminal(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), failure=404, reason="\x1b[31mgone\x1b[2J")])
    result = shop.prepare()
    assert result.code == 3
    assert "gone" in result.out + result.err
    assert "\x1b" not in result.out + result.err
