"""Rented from Amazon: EC2 instances, prefixes in S3 buckets, CloudFormation stacks.

Each function creates one through boto3 and owes its undo before that. The undo is a durable action: after
``kill -9`` it is run by the reaper, in a child, with the owner's interpreter. That child has to log in as
well. It is given *where* credentials are (`VARIABLES`: a profile, a file, a role), never credentials.

The actions can also be deferred by themselves, and planned around a creation of your own::

    with scope.planned(aws.terminate_instances, region="eu-central-1") as plan:
        made = ec2.run_instances(
            ..., ClientToken=aws.client_token(plan),
            TagSpecifications=[{"ResourceType": "instance", "Tags": [aws.tag(plan)]}],
        )
        plan.confirm(ids=[one["InstanceId"] for one in made["Instances"]])
"""

import os

from lastly._words.clock import seconds
from lastly.integrations._rented import aws
from lastly.integrations._rented.aws import (
    TAG,
    VARIABLES,
    VISIBLE,
    delete_prefix,
    delete_stack,
    terminate_instances,
)
from lastly.integrations._rented.handle import Rented, moment, planned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lastly._durable.handle import Plan
    from lastly._scope.scope import Scope

__all__ = [
    "TAG", "VARIABLES", "Instances", "Prefix", "Stack", "client_token", "create_stack", "delete_prefix",
    "delete_stack", "run_instances", "s3_prefix", "tag", "terminate_instances",
]  # fmt: skip
__dir__ = __all__.copy  # dir() shows what is public


class Instances(Rented):
    """EC2 instances that are terminated however the program ends; made by `run_instances`.

    Attributes:
        ids: their ids; `name` is these, separated by blanks.
        reply: what EC2 answered, as boto3 gives it.

    .. versionadded:: 0.1
    """

    __slots__ = ("ids", "reply")

    ids: "list[str]"
    reply: "dict[str, Any]"


class Prefix(Rented):
    """A prefix in an S3 bucket, deleted with all below it however the program ends; made by `s3_prefix`.

    Attributes:
        bucket: the bucket's name; `name` is the prefix, which ends in a slash.

    .. versionadded:: 0.1
    """

    __slots__ = ("bucket",)

    bucket: str


class Stack(Rented):
    """A CloudFormation stack that is deleted however the program ends; made by `create_stack`.

    Attributes:
        id: its id; `name` is its name.

    .. versionadded:: 0.1
    """

    __slots__ = ("id",)

    id: str


# ---- creating


def run_instances(
    *,
    scope: "Scope | None" = None,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    wait: float = VISIBLE,
    **request: "Any",
) -> Instances:
    """Start EC2 instances, which are terminated however the program ends.

    They carry the plan's token as their client token and in the tag ``lastly:token``, from the beginning. A
    request that EC2 refuses owes nothing; after one with an unknown outcome they are looked for.

    Args:
        scope: whose end is theirs; default: the process.
        profile: as in ``boto3.Session``.
        region: as in ``boto3.Session``.
        endpoint_url: of EC2, where it is not Amazon's.
        wait: seconds that a new instance may take to be visible to everybody.
        request: passed to boto3's ``run_instances``. Default: one instance.

    Raises:
        NotRecorded: the journal cannot be written; nothing was started.
        ImportError: boto3 is missing or too old.
        TypeError: a ``ClientToken`` was given: it is the journal's.
        ValueError: no region is known.

    .. versionadded:: 0.1
    """
    if "ClientToken" in request:
        raise TypeError("run_instances() sets the ClientToken: it is how the instances are found again")
    least = request.setdefault("MinCount", request.get("MaxCount", 1))
    most = request.setdefault("MaxCount", least)
    where = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    ec2 = aws.client("ec2", **where)
    plan = planned(scope, terminate_instances, **where, wait=wait, count=most if most == least else None)
    request["TagSpecifications"] = _tagged(request.get("TagSpecifications", ()), tag(plan))
    request["ClientToken"] = client_token(plan)
    with plan:
        reply = _refusable(plan, lambda: ec2.run_instances(**request))
        ids = [str(one["InstanceId"]) for one in reply["Instances"]]
        plan.confirm(ids=ids, at=moment())
    made = Instances(" ".join(ids), plan.cleanup)
    made.ids, made.reply = ids, reply
    return made


def s3_prefix(
    bucket: str,
    prefix: str = "",
    *,
    scope: "Scope | None" = None,
    versions: bool = True,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    wait: float = 3.0,
) -> Prefix:
    """Return a new prefix of a bucket: what is stored below it is deleted however the program ends.

    The bucket is asked first, with the request that the undo begins with: what may not be listed later is not
    begun.

    Args:
        bucket: an existing one.
        prefix: what the name begins with; 24 random digits and a slash are added.
        scope: whose end is its end; default: the process.
        versions: also delete older versions and delete markers. False: for a bucket without them, where you
            may not list or delete versions.
        profile: as in ``boto3.Session``.
        region: as in ``boto3.Session``.
        endpoint_url: of S3, where it is not Amazon's.
        wait: seconds that an upload may still take to appear after the program's death.

    Raises:
        NotRecorded: the journal cannot be written; store nothing.
        ImportError: boto3 is missing or too old.
        TypeError, ValueError: `wait` is not a length of time; nothing was asked for.

    .. versionadded:: 0.1
    """
    wait = seconds(wait, "wait")
    name = f"{prefix}{os.urandom(12).hex()}/"
    where = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    for _page in aws.listing(aws.client("s3", **where), bucket, name, versions):
        pass
    plan = planned(scope, delete_prefix, bucket, name, **where, versions=versions, wait=wait)
    made = Prefix(name, plan.cleanup)
    made.bucket = bucket
    return made


def create_stack(
    name: str | None = None,
    *,
    scope: "Scope | None" = None,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    wait: float = VISIBLE,
    **request: "Any",
) -> Stack:
    """Create a CloudFormation stack, which is deleted however the program ends. Does not wait for it.

    It carries the plan's token as its request token and in the tag ``lastly:token``; a stack of the same name
    without that tag is never touched.

    Args:
        name: of the stack; default: ``lastly-`` and 24 random digits.
        scope: whose end is its end; default: the process.
        profile: as in ``boto3.Session``.
        region: as in ``boto3.Session``.
        endpoint_url: of CloudFormation, where it is not Amazon's.
        wait: seconds that a new stack may take to be visible to everybody.
        request: passed to boto3's ``create_stack``: ``TemplateBody``, ``Parameters``, …

    Raises:
        NotRecorded: the journal cannot be written; nothing was created.
        ImportError: boto3 is missing or too old.
        TypeError: a ``ClientRequestToken`` was given: it is the journal's.
        ValueError: no region is known.

    .. versionadded:: 0.1
    """
    if "ClientRequestToken" in request:
        raise TypeError("create_stack() sets the ClientRequestToken: it is how the stack is found again")
    name = name or request.pop("StackName", None) or f"lastly-{os.urandom(12).hex()}"
    where = {"profile": profile, "region": region, "endpoint_url": endpoint_url}
    cloudformation = aws.client("cloudformation", **where)
    plan = planned(scope, delete_stack, name, **where, wait=wait)
    request.update(StackName=name, ClientRequestToken=client_token(plan))
    request["Tags"] = [*request.get("Tags", ()), tag(plan)]
    with plan:
        reply = _refusable(plan, lambda: cloudformation.create_stack(**request))
        plan.confirm(id=reply["StackId"])
    made = Stack(name, plan.cleanup)
    made.id = reply["StackId"]
    return made


def client_token(plan: "Plan") -> str:
    """Return the token of `plan` in the letters that Amazon's client tokens may have.

    .. versionadded:: 0.1
    """
    return plan.token.replace(".", "-")


def tag(plan: "Plan") -> "dict[str, str]":
    """Return the tag by which the undo finds what was created under `plan`.

    .. versionadded:: 0.1
    """
    return {"Key": TAG, "Value": client_token(plan)}


def _tagged(specifications: "Any", mark: "dict[str, str]") -> "list[dict[str, Any]]":
    """Add a tag to what will be an instance; EC2 takes one specification per type."""
    given = {one["ResourceType"]: list(one["Tags"]) for one in specifications}
    given.setdefault("instance", []).append(mark)
    return [{"ResourceType": kind, "Tags": tags} for kind, tags in given.items()]


def _refusable(plan: "Plan", create: "Callable[[], Any]") -> "Any":
    """Create it; a clear refusal of the first request means that nothing was created, and nothing is owed."""
    try:
        return create()
    except Exception as error:
        meta = getattr(error, "response", {}).get("ResponseMetadata", {})
        client_error = 400 <= meta.get("HTTPStatusCode", 0) < 500
        never_sent = type(error).__name__ in ("NoCredentialsError", "ParamValidationError")
        if never_sent or (client_error and meta.get("RetryAttempts") == 0):
            plan.detach()
        raise
