"""What was rented from Amazon is given back, wherever the program is killed: asked over HTTP, of moto's server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from harness import ROOT, Programs, end_all_of, wait_until
from reaping import archived, log

from lastly._reaper import desk
from lastly.integrations._rented import aws as _aws
from lastly.integrations._rented import handle

pytest.importorskip("moto")
boto3 = pytest.importorskip("boto3")

pytestmark = pytest.mark.xdist_group("aws")  # one server for all
LONG = 60.0  # seconds: boto3 is heavy, and a busy machine is slow
REGION = "eu-central-1"
TEMPLATE = '{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}'


class Amazon:
    """The server, and what the tests ask it."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "support" / "amazon.py")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        credentials = folder / "credentials"
        credentials.write_text("[default]\naws_access_key_id = id\naws_secret_access_key = not-a-secret\n")
        (folder / "config").write_text("[default]\n")
        self.env: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith("AWS_")},
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        keys = {"aws_access_key_id": "id", "aws_secret_access_key": "not-a-secret", "region_name": REGION}
        self.ec2, self.s3, self.cloudformation = (
            boto3.client(service, endpoint_url=self.url, **keys) for service in ("ec2", "s3", "cloudformation")
        )

    def trap(self, mode: str, text: str) -> None:
        self._control("PUT", f"{mode}/{quote(text)}")

    def caught(self) -> int:
        return int(self._control("GET", "caught"))

    def go(self, mode: str = "") -> None:
        self._control("DELETE", mode)

    def _control(self, method: str, path: str) -> str:
        request = urllib.request.Request(f"{self.url}/-/{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read().decode()

    def left(self, kind: str) -> list[Any]:
        """What there is of a kind, ours or not."""
        if kind == "instances":
            return [
                one["InstanceId"]
                for reservation in self.ec2.describe_instances()["Reservations"]
                for one in reservation["Instances"]
                if one["State"]["Name"] not in ("shutting-down", "terminated")
            ]
        if kind == "prefix":
            found = self.s3.list_object_versions(Bucket="bucket")
            uploads = self.s3.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
            return [*found.get("Versions", []), *found.get("DeleteMarkers", []), *uploads]
        return [one["StackName"] for one in self.cloudformation.describe_stacks()["Stacks"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Amazon]:
    amazon = Amazon(tmp_path_factory.mktemp("amazon"))
    amazon.s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    amazon.s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    yield amazon
    amazon.process.kill()
    amazon.process.wait()
    amazon.process.stdout.close()


@pytest.fixture
def amazon(server: Amazon) -> Iterator[Amazon]:
    """The server, without traps; whatever a failed test has left there is removed for the next one."""
    yield server
    server.go()
    if ids := server.left("instances"):
        server.ec2.terminate_instances(InstanceIds=ids)
    for stack in server.left("stack"):
        server.cloudformation.delete_stack(StackName=stack)


MAKE = {
    "instances": """
        made = aws.run_instances(scope=scope, wait=WAIT, ImageId="ami-12c6146b", MinCount=2, MaxCount=2)
        assert len(made.ids) == 2 and len(made.reply["Instances"]) == 2
    """,
    "prefix": """
        made = aws.s3_prefix("bucket", "builds/", scope=scope, wait=WAIT)
        s3 = boto3.client("s3")
        s3.create_multipart_upload(Bucket=made.bucket, Key=f"{made}never finished")
        for version in (b"1", b"2"):
            s3.put_object(Bucket=made.bucket, Key=f"{made}a b/\\u20ac", Body=version)
        s3.delete_object(Bucket=made.bucket, Key=f"{made}a b/\\u20ac")
    """,
    "stack": f"""
        made = aws.create_stack(scope=scope, wait=WAIT, TemplateBody={TEMPLATE!r})
    """,
}
CREATE = {"instances": "Action=RunInstances", "prefix": "PUT /bucket/builds/", "stack": "Action=CreateStack"}
UNDO = {"instances": "Action=TerminateInstances", "prefix": "POST /bucket", "stack": "Action=DeleteStack"}
KINDS = list(MAKE)


def program(kind: str, *, wait: float = 1.0, then: str = "") -> str:
    return f"""
import boto3, lastly, os, sys, time
from lastly.integrations import aws
WAIT = {wait}
scope = lastly.Scope()
{textwrap.dedent(MAKE[kind])}
print("made", made.name, repr(made), flush=True)
{then or "time.sleep(1000)"}
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(keep=1)
def test_given_back_when_the_scope_closes(programs: Programs, amazon: Amazon, kind: str) -> None:
    """Twice: the second time there is nothing to do."""
    then = "assert made.cleanup.durable; made.close(); made.close(); scope.close(); print(repr(made))"
    result = programs.run(program(kind, then=then), env=amazon.env, within=LONG)
    assert (result.status, result.err) == (0, "")
    assert result.lines[-1].endswith(" gone>")
    assert amazon.left(kind) == []


@pytest.mark.parametrize("mode", ["dropped", "late", "lost"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(keep=2)
def test_killed_while_it_is_created(
    programs: Programs, amazon: Amazon, home: Path, kind: str, mode: str
) -> None:
    """The request is never executed, or after the program's death, or it is and the answer is lost."""
    amazon.trap(mode, CREATE[kind])
    owner = programs.start(program(kind), env=amazon.env)
    wait_until(amazon.caught, within=LONG, what=f"{kind} requested")
    if mode == "late":
        amazon.trap("lost", "Action=Describe" if kind != "prefix" else "?uploads")
    owner.send(signal.SIGKILL)
    if mode == "late":  # it looks once, and sees nothing; then the request goes through
        wait_until(lambda: amazon.caught() == 2, within=LONG, what="a look")
        amazon.go("late")
        assert amazon.left(kind)
        amazon.go("lost")
    archived(home, LONG)
    assert amazon.left(kind) == [], log(home)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_killed_when_it_is_there(programs: Programs, amazon: Amazon, home: Path, kind: str) -> None:
    owner = programs.start(program(kind), env=amazon.env)
    owner.line("made", within=LONG)
    assert amazon.left(kind)
    owner.send(signal.SIGKILL)
    archived(home, LONG)
    assert amazon.left(kind) == [], log(home)


@pytest.mark.parametrize(("kind", "mode"), [("instances", "lost"), ("prefix", "dropped"), ("stack", "lost")])
@pytest.mark.slow
def test_killed_in_the_middle_of_the_undo(
    programs: Programs, amazon: Amazon, home: Path, kind: str, mode: str
) -> None:
    """The owner first, then the reaper with all it has started; then somebody runs `lastly reap`."""
    amazon.trap(mode, UNDO[kind])
    owner = programs.start(program(kind, then="scope.close()"), env=amazon.env)
    wait_until(amazon.caught, within=LONG, what="the owner gives it back")
    amazon.trap(mode, "POST /" if kind != "prefix" else "?uploads")  # whatever the undo asks first
    owner.send(signal.SIGKILL)
    wait_until(lambda: amazon.caught() == 2, within=LONG, what="the reaper gives it back")
    end_all_of(home)  # the reaper, its worker, and the child in which the undo runs
    amazon.go()
    result = programs.run_command(["lastly", "reap"], env={"LASTLY_REAPER": "0"}, within=LONG)
    assert result.status == 0, result
    archived(home, LONG)
    assert amazon.left(kind) == [], log(home)


@pytest.mark.parametrize("failpoint", ["upload=SIGKILL", ""])
@pytest.mark.slow
def test_the_example_deployment_on_amazon(
    programs: Programs, amazon: Amazon, home: Path, tmp_path: Path, failpoint: str
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "README.md").write_text("# Site")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for words in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "-m", "first")):
        subprocess.run(["git", "-C", repository, *words], check=True, env=clean)
    site = tmp_path / "site"
    argv = ["python", str(ROOT / "examples" / "build_site.py"), str(repository), "HEAD"]
    argv += ["--site", str(site), "--cloud", "s3://bucket"]
    result = programs.run_command(argv, env={**amazon.env, "FAILPOINT": failpoint}, within=LONG)
    signum = failpoint.partition("=")[2]
    assert result.status == (-signal.Signals[signum] if signum else 0), result
    archived(home, LONG)
    assert amazon.left("instances") + amazon.left("prefix") == []
    assert os.path.exists(site / "current" / "index.html") == (not failpoint)


@pytest.mark.slow
def test_a_new_instance_that_is_not_visible_yet_is_waited_for(programs: Programs, amazon: Amazon) -> None:
    """Amazon's machines do not all know of it at once: it is asked for, and said not to be there, three times."""
    for _ in range(3):
        amazon.trap("blind", "Action=DescribeInstances")
    result = programs.run(program("instances", wait=60, then="scope.close()"), env=amazon.env, within=LONG)
    assert (result.status, result.err) == (0, "")
    assert amazon.left("instances") == []


@pytest.mark.slow
def test_named_instances_are_terminated_and_what_is_gone_is_success(
    programs: Programs, amazon: Amazon
) -> None:
    there = amazon.ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    code = """
        import lastly, sys
        from lastly.integrations import aws
        for _ in range(2):
            aws.terminate_instances(sys.argv[1], "i-00000000000000000", wait=0.1)
        aws.delete_prefix("no-such-bucket", "a/", wait=0)
        aws.delete_stack("no-such-stack", wait=0)
    """
    result = programs.run(code, there, env=amazon.env, within=LONG)
    assert (result.status, result.err) == (0, "")
    assert amazon.left("instances") == []


def test_a_refused_creation_owes_nothing(programs: Programs, amazon: Amazon) -> None:
    """And the stack of that name, which is somebody else's, stays."""
    amazon.cloudformation.create_stack(StackName="theirs", TemplateBody=TEMPLATE)
    code = f"""
        import lastly
        from botocore.exceptions import ClientError, ParamValidationError
        from lastly.integrations import aws
        scope = lastly.Scope()
        for make in (
            lambda: aws.create_stack("theirs", scope=scope, TemplateBody={TEMPLATE!r}),
            lambda: aws.run_instances(scope=scope, ImageId="ami-12c6146b", SubnetId="subnet-0"),
            lambda: aws.run_instances(scope=scope, NoSuchArgument=1),
            lambda: aws.s3_prefix("no-such-bucket", scope=scope),
        ):
            try:
                make()
            except (ClientError, ParamValidationError) as error:
                print(type(error).__name__)
        scope.close()
        aws.delete_stack("theirs", wait=0)
    """
    result = programs.run(code, env=amazon.env, within=LONG)
    assert (result.status, result.err) == (0, "")
    assert amazon.left("stack") == ["theirs"]
    assert result.lines == ["AlreadyExistsException", "ClientError", "ParamValidationError", "NoSuchBucket"]
    assert amazon.left("instances") == []


def test_credentials_stay_out_of_the_journal(programs: Programs, amazon: Amazon, home: Path) -> None:
    """Where they are is written, they are not; only for who says so in LASTLY_ENV."""
    secrets = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_SESSION_TOKEN": "t0k3n"}
    for allowed in ("", ",".join(secrets)):
        env = {**amazon.env, **secrets, "LASTLY_ENV": allowed, "AWS_SHARED_CREDENTIALS_FILE": None}
        owner = programs.start(program("stack", then="os.read(0, 1); scope.close()"), env=env, stdin=subprocess.PIPE)
        owner.line("made", within=LONG)
        (journal,) = (home / "owners").rglob(f"{owner.pid}.*.j")
        text = journal.read_text()
        assert amazon.url in text
        assert ("s3cr3t" in text and "t0k3n" in text) == bool(allowed)
        owner.write("x")
        result = owner.wait(within=LONG)
        assert result.status == 0
        assert ("RuntimeWarning: the secret (AWS_SECRET_ACCESS_KEY) is not written" in result.err) != bool(allowed)


def test_whose_amazon_is_meant_is_written_down(programs: Programs, amazon: Amazon, home: Path) -> None:
    """Region, server, profile and account, which the environment says; each is another one elsewhere."""
    code = """
        import lastly, os
        from lastly.integrations import aws
        lastly.defer(aws.terminate_instances, "i-00000000000000000")
        lastly.defer(aws.delete_stack, "some")
        lastly.defer(aws.delete_prefix, "bucket", "a/")
        os.kill(os.getpid(), 9)
    """
    env = {**amazon.env, "AWS_PROFILE": "default", "LASTLY_REAPER": "later", "AWS_ENDPOINT_URL_STS": amazon.url}
    assert programs.run(code, env=env, within=LONG).status == -signal.SIGKILL
    for cleanup in desk.owners()[0]["cleanups"]:
        told = cleanup["kwargs"]
        assert (told["region"], told["endpoint_url"], told["profile"]) == (REGION, amazon.url, "default")
        assert told.get("account") == (None if "prefix" in cleanup["action"] else "123456789012")


def test_with_credentials_of_another_account_nothing_is_undone(
    programs: Programs, amazon: Amazon, home: Path
) -> None:
    """Where it is not there, which would count as success."""
    code = """
        import lastly, os
        from lastly.integrations import aws
        lastly.defer(aws.terminate_instances, "i-00000000000000000", account="999999999999", wait=0)
        lastly.defer(aws.delete_stack, "some", account="999999999999", wait=0)
        os.kill(os.getpid(), 9)
    """
    programs.run(code, env={**amazon.env, "LASTLY_REAPER": "later"}, within=LONG)
    result = programs.run_command(["lastly", "reap"], within=2 * LONG)
    assert result.status == 1
    for cleanup in desk.owners()[0]["cleanups"]:
        assert cleanup["state"] == "failed"
        assert "created in account 999999999999, and the credentials here are of account 123456789012" in cleanup["error"]


def test_how_long_ago_it_was_confirmed_is_not_told_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set forward, it would make a new instance, which nobody sees yet, one that is long forgotten."""
    then = handle.moment()
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert 0 <= handle.elapsed(then) < 60
    assert 50 < handle.elapsed([then[0], then[1] - 50]) < 110
    assert [handle.elapsed(odd) for odd in (None, 1e9, ["another boot", 0.0], [then[0], "x"], [])] == [0.0] * 5


def test_variables_set_after_the_first_plan_reach_the_undo(
    programs: Programs, amazon: Amazon, home: Path
) -> None:
    """A program that chooses its endpoint and its profile late, and was killed."""
    late = {name: value for name, value in amazon.env.items() if value and name.startswith("AWS_")}
    code = program("stack").replace("WAIT =", f"lastly.temp_dir(); os.environ.update({late}); WAIT =")
    owner = programs.start(code, env=dict.fromkeys(amazon.env))
    owner.line("made", within=LONG)
    owner.send(signal.SIGKILL)
    archived(home, LONG)
    assert amazon.left("stack") == [], log(home)


def test_bad_input_is_said_before_anything_is_created(programs: Programs, amazon: Amazon) -> None:
    code = """
        import lastly
        from lastly.integrations import aws
        for call in (
            lambda: lastly.defer(aws.delete_prefix, "bucket", "a"),
            lambda: lastly.defer(aws.delete_prefix, "bucket", "/"),
            lambda: lastly.defer(aws.delete_prefix, "bucket"),
            lambda: lastly.defer(aws.terminate_instances, regoin=1),
            lambda: lastly.defer(aws.delete_prefix, "bucket", "a/", wait="3 s"),
            lambda: aws.delete_prefix("bucket", ""),
            lambda: aws.run_instances(ClientToken="mine"),
            lambda: aws.create_stack(ClientRequestToken="mine"),
            lambda: aws.run_instances(ImageId="ami-12c6146b"),
        ):
            try:
                call()
            except (TypeError, ValueError) as error:
                print(type(error).__name__, error)
    """
    result = programs.run(code, env={**amazon.env, "AWS_DEFAULT_REGION": None}, within=LONG)
    assert (result.status, result.err) == (0, "")
    assert [line[:30] for line in result.lines] == [
        "ValueError 'a': a prefix to de",
        "ValueError '/': a prefix to de",
        "TypeError delete_prefix() miss",
        "TypeError terminate_instances(",
        "TypeError wait must be a numbe",
        "ValueError '': a prefix to del",
        "TypeError run_instances() sets",
        "TypeError create_stack() sets ",
        "ValueError in which region? Pa",
    ]


@pytest.mark.parametrize(
    ("boto3", "says"),
    [
        ("None", 'ImportError: lastly.integrations.aws needs boto3: pip install "lastly[aws]"'),
        ("type(sys)('boto3'); sys.modules['boto3'].__version__ = '1.26.9'",
         'ImportError: boto3 1.26.9 is too old, 1.28 is needed: pip install -U "lastly[aws]"'),
    ],
    ids=["missing", "old"],
)  # fmt: skip
def test_without_boto3_one_line_says_what_to_install(programs: Programs, boto3: str, says: str) -> None:
    code = f"""
        import sys
        sys.modules["boto3"] = {boto3}
        from lastly.integrations import aws
        aws.run_instances()
    """
    assert says in programs.run(code, within=LONG).err.splitlines()[-1]


def test_a_prefix_that_is_deleted_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may make any number of them."""
    s3 = SimpleNamespace(
        exceptions=SimpleNamespace(NoSuchBucket=KeyError),
        get_paginator=lambda _name: SimpleNamespace(paginate=lambda **_: []),
    )
    monkeypatch.setattr(_aws, "client", lambda *_: s3)
    monkeypatch.setattr(_aws, "_here", {("bucket", "one/"), ("bucket", "two/")})
    _aws.delete_prefix("bucket", "one/")
    assert _aws._here == {("bucket", "two/")}


def test_a_profile_is_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker elsewhere has none of that name, or another one."""
    monkeypatch.setenv("LASTLY_JOURNAL", "postgresql:///lastly")
    with pytest.raises(ValueError, match="profile='shop' cannot be used with a shared journal"):
        _aws._prepare_instances((), {"token": "t", "region": "eu-central-1", "profile": "shop"})
    monkeypatch.setenv("AWS_PROFILE", "shop")
    monkeypatch.setattr(_aws, "_session", lambda _profile, region: type("S", (), {"region_name": region, "profile_name": None}))
    monkeypatch.setattr(_aws, "_account_now", lambda *_: "123456789012")
    _, kwargs = _aws._prepare_instances((), {"token": "t", "region": "eu-central-1"})
    assert kwargs.get("profile") is None
    assert (kwargs["region"], kwargs["account"]) == ("eu-central-1", "123456789012")
