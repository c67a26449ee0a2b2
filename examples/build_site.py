"""Build a website from a repository's Markdown on a rented machine, check it there, publish it.

    python examples/cloud.py serve /tmp/cloud &                     # prints the cloud's address
    python examples/build_site.py . HEAD --site /tmp/site --cloud http://127.0.0.1:PORT

The work has stages, and each has something to undo: the lock, the build folder, the machine that costs money, the
tunnel to it, a release that nobody will serve. Every stage owes its undo *before* it begins, so the undo must also
accept that there is nothing to undo yet. `--cleanup` chooses who is asked to remember that:

    atexit      the standard library's atexit, alone
    handlers    atexit, and a handler for every signal that one should think of
    lastly      lastly
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import http.client
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import markdown
from markdown.treeprocessors import Treeprocessor

import lastly
from failpoint import failpoint
from lastly import action, actions
from lock import Holder, release_lock, take_lock

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

log = logging.getLogger("build_site")
TUNNEL = (sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "cloud.py"), "tunnel")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body>
{body}
</body></html>
"""


# ── What undoes a stage. Another process can run these, so they get all they need to know as arguments. ──


@action(remote=True)
def destroy_machine(cloud: str, token: str) -> None:
    """Give the machine back. The token is ours, so this is right before, while and after it is made."""
    ask(cloud, "DELETE", f"/machines/{token}")


@action
def discard_release(site: str, release: str) -> None:
    """Remove a release unless it is the one being served."""
    if release != served(site) and os.path.isdir(release):
        shutil.rmtree(release)


# ── Who remembers what is owed. ──


class Cleanup(NamedTuple):
    owe: Callable[..., object]  # (function, *arguments)
    Popen: Callable[..., subprocess.Popen[bytes]]  # a child process that does not outlive this one


def with_lastly() -> Cleanup:
    lastly.install()
    return Cleanup(lastly.defer, lastly.Popen)


def with_atexit() -> Cleanup:
    def popen(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(*args, **kwargs)
        atexit.register(process.wait)
        atexit.register(process.terminate)
        return process

    return Cleanup(atexit.register, popen)


def with_handlers() -> Cleanup:
    def signal_handler(signum: int, _: object) -> None:
        log.warning("received signal %d, cleaning up and exiting", signum)
        sys.exit(128 + signum)

    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(signum, signal_handler)
    return with_atexit()


# ── The stages. ──


def deploy(repository: str, commit: str, *, site: str, cloud: str, cleanup: Cleanup, patience: float) -> str:
    """Build `commit` and publish it; return the folder that is served from now on."""
    build = f"{time.time_ns()}-{os.getpid()}"  # a newer build has a greater name
    stage("start", build)
    lock, folder = os.path.join(site, "deploy.lock"), os.path.join(site, f"build-{build}")
    me = Holder.this_process(build)

    stage("lock", lock)
    cleanup.owe(release_lock, lock, me.text())
    take_lock(lock, me, patience)

    cleanup.owe(actions.remove, folder)
    clone(repository, commit, folder, cleanup)

    if cloud.startswith("s3:"):
        stage("rent", cloud)
        way_in = on_amazon().rent(cloud)
        pages = build_pages(folder)
    else:
        cleanup.owe(destroy_machine, cloud, build)
        port = rent_machine(cloud, build)
        pages = build_pages(folder)
        tunnel = cleanup.Popen([*TUNNEL, str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        way_in = f"http://127.0.0.1:{int(tunnel.stdout.readline())}"
    upload(way_in, folder, pages)
    verify(way_in, pages)

    # One of these two will not be served in the end, whether or not we get as far as publishing.
    new, old = os.path.join(site, "releases", build), served(site)
    cleanup.owe(discard_release, site, new)
    if old:
        cleanup.owe(discard_release, site, old)
    publish(site, new, folder)
    return new


def stage(name: str, about: object) -> None:
    print(f"{name:<8} {about}", flush=True)


def clone(repository: str, commit: str, folder: str, cleanup: Cleanup) -> None:
    """Fetch that one commit; works from a shallow repository, too."""
    stage("clone", commit)
    name = ("git", "-C", repository, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    commit = subprocess.run(name, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    source = os.path.join(folder, "source")
    subprocess.run(("git", "init", "--quiet", "--template=", source), check=True)
    git = ("git", "-C", source, "-c", "protocol.version=2", "-c", "advice.detachedHead=false")
    fetch = (*git, "fetch", "--quiet", "--depth=1", "--no-tags", os.path.abspath(repository), commit)
    fetching = cleanup.Popen(fetch, stdin=subprocess.DEVNULL)
    failpoint("clone")
    if fetching.wait() != 0:
        sys.exit(f"git cannot fetch {commit} from {repository}")
    subprocess.run((*git, "checkout", "--quiet", "FETCH_HEAD"), check=True)


def rent_machine(cloud: str, token: str) -> int:
    """Rent a machine; the token makes it the same one however often we have to ask."""
    stage("rent", cloud)
    for pause in (0.1, 0.2, 0.4, 0.8, None):
        status, machine = ask(cloud, "PUT", f"/machines/{token}", at="rent")
        if status == 200:
            return machine["port"]
        if status != 503 or pause is None:
            break
        time.sleep(pause)
    sys.exit(f"the cloud has no machine for us: {status} {machine}")


class Links(Treeprocessor):
    """Links between Markdown files become links between pages."""

    def run(self, root):
        for link in root.iter("a"):
            path, mark, anchor = link.get("href", "").partition("#")
            if path.endswith(".md") and "://" not in path:
                link.set("href", page_of(path) + mark + anchor)


def page_of(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, "index.html" if name == "README.md" else name[:-3] + ".html")


def sources(folder: str) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            os.path.relpath(os.path.join(where, name), folder)
            for name in sorted(names)
            if name.endswith(".md")
        )


def build_pages(folder: str) -> dict[str, str]:
    """Write the site to `folder`/site; return the digest of each page by its path."""
    stage("build", folder)
    writer = markdown.Markdown(extensions=["extra", "sane_lists", "toc"])
    writer.treeprocessors.register(Links(writer), "links", 0)
    pages = {}
    for source in sources(os.path.join(folder, "source")):
        with open(os.path.join(folder, "source", source), encoding="utf-8") as file:
            body = writer.reset().convert(file.read())
        title = writer.toc_tokens[0]["name"] if writer.toc_tokens else source
        page = PAGE.format(title=title, body=body).encode()
        path = os.path.join(folder, "site", page_of(source))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(page)
        pages[page_of(source)] = hashlib.sha256(page).hexdigest()
        failpoint("build")
    return pages


def upload(way_in: str, folder: str, pages: dict[str, str]) -> None:
    stage("upload", f"{len(pages)} pages")
    for page in pages:
        with open(os.path.join(folder, "site", page), "rb") as file:
            status, _ = ask(way_in, "PUT", f"/{page}", file.read())
        if status != 201:
            sys.exit(f"{page} was not accepted: {status}")
        failpoint("upload")


def verify(way_in: str, pages: dict[str, str]) -> None:
    """Read every page back from the machine."""
    stage("verify", f"{len(pages)} pages")
    if "index.html" not in pages:
        sys.exit("the site has no front page")
    for page, digest in pages.items():
        status, body = ask(way_in, "GET", f"/{page}")
        if status != 200 or hashlib.sha256(body).hexdigest() != digest:
            sys.exit(f"{page} is not what we uploaded: {status}")
        failpoint("verify")


def served(site: str) -> str:
    """The release that is being served; an empty text before the first."""
    try:
        return os.path.join(site, os.readlink(os.path.join(site, "current")))
    except FileNotFoundError:
        return ""


def publish(site: str, release: str, folder: str) -> None:
    """Serve the new release: at every moment either the whole old or the whole new one."""
    stage("publish", release)
    os.makedirs(os.path.dirname(release), exist_ok=True)
    os.rename(os.path.join(folder, "site"), release)
    link = os.path.join(folder, "current")
    os.symlink(os.path.relpath(release, site), link)
    failpoint("publish")
    os.rename(link, os.path.join(site, "current"))


def ask(server: str, method: str, path: str, body: bytes = b"", at: str = "") -> tuple[int, object]:
    """One HTTP request: the status, and the answer (decoded, if a cloud sends it)."""
    if server.startswith("s3:"):
        return on_amazon().ask(server, method, path, body)
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.request(method, path, body or None)
        failpoint(at)
        response = connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer) if path.startswith("/machines") else answer
    finally:
        connection.close()


def on_amazon() -> types.ModuleType:
    """Amazon's way of doing this; boto3 is only for who rents there."""
    import on_amazon

    return on_amazon


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build a website from a repository's Markdown and publish it."
    )
    parser.add_argument("repository")
    parser.add_argument("commit")
    parser.add_argument(
        "--site", required=True, help="the folder to publish to: its 'current' is what is served"
    )
    parser.add_argument("--cloud", required=True, help="the address of the cloud; s3://BUCKET for Amazon")
    parser.add_argument(
        "--patience", type=float, default=30.0, help="seconds to wait for an older build to end"
    )
    parser.add_argument("--cleanup", choices=("atexit", "handlers", "lastly"), default="lastly")
    options = vars(parser.parse_args())
    if options["cloud"].startswith("s3:") and options["cleanup"] != "lastly":
        parser.error("only --cleanup lastly rents from Amazon")
    logging.basicConfig(format="%(message)s")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set when a git hook starts us
        os.environ.pop(name, None)
    options["site"] = os.path.abspath(options["site"])
    os.makedirs(options["site"], exist_ok=True)
    options["cleanup"] = {"atexit": with_atexit, "handlers": with_handlers, "lastly": with_lastly}[
        options["cleanup"]
    ]()
    deploy(**options)


if __name__ == "__main__":
    main()
