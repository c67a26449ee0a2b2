"""How what was rented from Amazon is given back: run in the owner, or in the reaper's child."""

import os
from time import sleep

from lastly._action import Action
from lastly._durable import portable
from lastly._durable.configure import is_shared
from lastly._words.clock import seconds
from lastly.errors import LastlyError
from lastly.integrations._rented.handle import at_least, bound, elapsed, looks, warn_of_secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lastly._action import AnyAction

TAG = "lastly:token"
VISIBLE = 30.0

# What the undo's process gets of the environment. Names of places; none holds a secret.
VARIABLES = (
    "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_DEFAULT_PROFILE",
    "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_CLOUDFORMATION", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS", "AWS_MAX_ATTEMPTS", "AWS_PROFILE", "AWS_REGION", "AWS_RETRY_MODE", "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME", "AWS_SDK_LOAD_CONFIG", "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT", "AWS_WEB_IDENTITY_TOKEN_FILE", "BOTO_CONFIG",
    "NO_PROXY", "no_proxy",
)  # fmt: skip

_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")
_ENDING = ("shutting-down", "terminated")

# Prefixes planned by this process: as long as it lives, it knows whether its uploads are over.
_here: set[tuple[str, str]] = set()

# By profile and region.
_accounts: dict[tuple[str, str], str] = {}


# ---- talking to Amazon


def client(
    service: str, profile: str | None = None, region: str | None = None, endpoint_url: str | None = None
) -> "Any":
    """Return a boto3 client.

    Raises:
        ImportError: boto3 is missing or too old.
        ValueError: no region is known.
    """
    session = _session(profile, region)
    if session.region_name is None and service != "s3":
        raise ValueError("in which region? Pass region=, set AWS_REGION, or name one in your profile")
    return session.client(service, endpoint_url=endpoint_url)


def _session(profile: str | None, region: str | None) -> "Any":
    try:
        import boto3
    except ImportError as error:
        raise ImportError(
            f'lastly.integrations.aws needs boto3: pip install "lastly[aws]" ({error})'
        ) from None
    at_least(boto3.__version__, (1, 28), "boto3", "aws")
    return boto3.Session(profile_name=profile, region_name=region)


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


# ---- when deferred


def _recorded(
    action: "AnyAction", service: str, args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> "tuple[list[Any], dict[str, Any]]":
    """Make the arguments complete: which account and region are meant, as the environment has it now.

    The undo may be run where the environment means another region, account or server, and there "not there"
    would count as success.
    """
    portable.check_call(action, args, kwargs)
    kwargs = dict(kwargs)
    if "wait" in kwargs:
        kwargs["wait"] = seconds(kwargs["wait"], "wait")
    shared = is_shared()
    if shared and kwargs.get("profile") is not None:
        raise ValueError(
            f"profile={kwargs['profile']!r} cannot be used with a shared journal: it is in the files of this "
            "machine, and a worker on another one has credentials of its own; leave it out"
        )
    session = _session(kwargs.get("profile"), kwargs.get("region"))
    portable.allow(*VARIABLES)
    if kwargs.get("profile") is None and _SECRETS[0] in os.environ:
        warn_of_secret(_SECRETS, "a profile, a role or a credentials file")
    elif kwargs.get("profile") is None and not shared:
        kwargs["profile"] = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    kwargs["region"] = session.region_name
    kwargs["endpoint_url"] = kwargs.get("endpoint_url") or _endpoint(service)
    if "account" in (action.fn.__kwdefaults__ or ()) and kwargs.get("account") is None:
        kwargs["account"] = _account_now(session, kwargs["endpoint_url"])
    return portable.arguments(action, args, kwargs)


def _endpoint(service: str) -> str | None:
    return os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}") or os.environ.get("AWS_ENDPOINT_URL")


def _account_now(session: "Any", endpoint_url: str | None) -> str | None:
    """The number of the account that the credentials are of; None when that is not known soon.

    A server that is not Amazon's has accounts of its own, or none.
    """
    if endpoint_url and not os.environ.get("AWS_ENDPOINT_URL_STS"):
        return None
    key = (session.profile_name, session.region_name)
    if key not in _accounts:
        from botocore.config import Config  # type: ignore[import-untyped]

        quick = Config(connect_timeout=3, read_timeout=3, retries={"total_max_attempts": 1})
        try:
            _accounts[key] = session.client("sts", config=quick).get_caller_identity()["Account"]
        except Exception:  # no credentials, no way to STS: what is created next says so better, or works
            return None
    return _accounts[key]


def check_account(account: str | None, profile: str | None, region: str | None) -> None:
    """Raise LastlyError unless this process's credentials are of the account in which it was created."""
    if account is None:
        return
    session = _session(profile, region)
    here = _accounts.get((session.profile_name, session.region_name))
    if here is None:
        here = session.client("sts").get_caller_identity()["Account"]
    if here != account:
        raise LastlyError(
            f"this was created in account {account}, and the credentials here are of account {here}: "
            "run the undo where those of the first one are"
        )


def _prepare_instances(
    args: "tuple[Any, ...]", kwargs: "dict[str, Any]"
) -> "tuple[list[Any], dict[str, Any]]":
    return _recorded(terminate_instances, "ec2", args, kwargs)


def _prepare_prefix(args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "tuple[list[Any], dict[str, Any]]":
    given = bound(delete_prefix, args, kwargs)
    _check_prefix(given["prefix"])
    _here.add((given["bucket"], given["prefix"]))
    return _recorded(delete_prefix, "s3", args, kwargs)


def _prepare_stack(args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> "tuple[list[Any], dict[str, Any]]":
    return _recorded(delete_stack, "cloudformation", args, kwargs)


def _check_prefix(prefix: str) -> None:
    if not prefix.endswith("/") or not prefix.strip("/"):
        raise ValueError(f"{prefix!r}: a prefix to delete ends in a slash and has something before it")


# ---- giving back


def _terminate_instances(
    *ids: str,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    account: str | None = None,
    wait: float = VISIBLE,
    count: int | None = None,
    token: str = "",
    confirmed: "dict[str, Any] | None" = None,
) -> None:
    """Terminate EC2 instances; not there, and ended already, is success.

    Those named, and those that carry this plan's tag. One that is not visible is waited for, `wait`
    seconds: it may be too new.

    Args:
        ids: which; none: those created under this plan (`client_token`, `tag`).
        profile: as in ``boto3.Session``.
        region: as in ``boto3.Session``.
        endpoint_url: of EC2, where it is not Amazon's.
        account: its number; with credentials of another one nothing is done. Default: that of the credentials
            when deferred, as far as Amazon says so.
        wait: seconds that a new instance may take to be visible to everybody. Default 30.
        count: how many were asked for under this plan, when that is certain: then the waiting ends earlier.
        token: given by the journal: what was created carries it.
        confirmed: given by the journal: the ids, once they are known.

    .. versionadded:: 0.1
    """
    check_account(account, profile, region)
    ec2 = client("ec2", profile, region, endpoint_url)
    known = confirmed or {}
    expected = {*ids, *known.get("ids", ())}
    if elapsed(known.get("at")) > wait:
        wait = 0.0  # what is not visible now has been forgotten, an hour after its end
    ended: set[str] = set()
    for _ in looks(wait):
        states = _states(ec2, expected, token)
        living = [one for one, state in states.items() if state not in _ENDING and one not in ended]
        if living:
            try:
                ec2.terminate_instances(InstanceIds=living)
            except Exception as error:
                if not _code(error).startswith("InvalidInstanceID"):
                    raise
                continue  # one of their machines has seen it, the next one has not yet
        ended.update(states)
        if (expected <= ended) if expected else (count is not None and len(ended) >= count):
            return


def _states(ec2: "Any", ids: "set[str]", token: str) -> "dict[str, str]":
    """Return the states of the instances that are visible. Filters accept ids that are not."""
    ordered = sorted(ids)
    filters = [{"Name": "instance-id", "Values": ordered[i : i + 100]} for i in range(0, len(ordered), 100)]
    if token:
        filters.append({"Name": f"tag:{TAG}", "Values": [token.replace(".", "-")]})
    return {
        one["InstanceId"]: one["State"]["Name"]
        for wanted in filters
        for page in ec2.get_paginator("describe_instances").paginate(Filters=[wanted])
        for reservation in page["Reservations"]
        for one in reservation["Instances"]
    }


def _delete_prefix(
    bucket: str,
    prefix: str,
    *,
    versions: bool = True,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    wait: float = 3.0,
) -> None:
    """Delete all objects of a bucket below a prefix, and give up unfinished uploads there; none is success.

    Args:
        bucket: one that does not exist has nothing in it.
        prefix: ends in a slash, so that ``build-1/`` does not take ``build-10/`` along.
        versions: also delete older versions and delete markers. Default True.
        profile: as in ``boto3.Session``.
        region: as in ``boto3.Session``.
        endpoint_url: of S3, where it is not Amazon's.
        wait: seconds that an upload may still take to appear after the program's death. Default 3.

    Raises:
        ValueError: the prefix does not end in a slash, or is nothing else.
        LastlyError: objects that may not be deleted; the others were.

    .. versionadded:: 0.1
    """
    _check_prefix(prefix)
    s3 = client("s3", profile, region, endpoint_url)
    try:
        for _ in looks(0.0 if (bucket, prefix) in _here else wait):
            for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                for one in page.get("Uploads", ()):
                    _abort(s3, bucket, one["Key"], one["UploadId"])
            for batch in listing(s3, bucket, prefix, versions):
                _delete(s3, bucket, batch)
    except s3.exceptions.NoSuchBucket:
        pass
    _here.discard((bucket, prefix))


def listing(s3: "Any", bucket: str, prefix: str, versions: bool) -> "Any":
    """Yield what is below the prefix, as `delete_objects` takes it, at most 1,000 at once."""
    paginator = s3.get_paginator("list_object_versions" if versions else "list_objects_v2")
    fields = ("Key", "VersionId") if versions else ("Key",)
    for page in paginator.paginate(Bucket=bucket, Prefix=prefix):
        found = [one for kind in ("Versions", "DeleteMarkers", "Contents") for one in page.get(kind, ())]
        for i in range(0, len(found), 1000):
            yield [{field: one[field] for field in fields} for one in found[i : i + 1000]]


def _delete(s3: "Any", bucket: str, batch: "list[dict[str, str]]") -> None:
    reply = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
    if refused := [one for one in reply.get("Errors", ()) if not one["Code"].startswith("NoSuch")]:
        first = refused[0]
        raise LastlyError(
            f"{len(refused)} objects of s3://{bucket} could not be deleted; the first is "
            f"{first.get('Key')!r}: {first['Code']}: {first.get('Message', '')}"
        )


def _abort(s3: "Any", bucket: str, key: str, upload: str) -> None:
    try:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except Exception as error:
        if _code(error) != "NoSuchUpload":
            raise


def _delete_stack(
    name: str,
    *,
    profile: str | None = None,
    region: str | None = None,
    endpoint_url: str | None = None,
    account: str | None = None,
    wait: float = VISIBLE,
    token: str = "",
    confirmed: "dict[str, Any] | None" = None,
) -> None:
    """Delete a CloudFormation stack and wait until it is gone; not there, and deleted already, is success.

    Args:
        name: the stack's id, which is unique; or its name: then only one that carries this plan's tag.
        profile: as in ``boto3.Session``.
        region: as in ``boto3.Session``.
        endpoint_url: of CloudFormation, where it is not Amazon's.
        account: its number; with credentials of another one nothing is done. Default: that of the credentials
            when deferred, as far as Amazon says so.
        wait: seconds that a new stack may take to be visible to everybody. Default 30.
        token: given by the journal: what was created carries it.
        confirmed: given by the journal: the id, once it is known.

    Raises:
        LastlyError: the credentials are of another account; or CloudFormation could not delete it, and the
            message has its reason.

    .. versionadded:: 0.1
    """
    check_account(account, profile, region)
    cloudformation = client("cloudformation", profile, region, endpoint_url)
    stack = (confirmed or {}).get("id") or (name if name.startswith("arn:") else None)
    if stack is None:
        for _ in looks(wait):
            found = _describe(cloudformation, name)
            if found is not None and {"Key": TAG, "Value": token.replace(".", "-")} in found.get("Tags", ()):
                stack = found["StackId"]
                break
        else:
            return
    asked, pause = False, 0.2
    while (found := _describe(cloudformation, stack)) is not None:
        status = found["StackStatus"]
        if status == "DELETE_COMPLETE":
            return
        if status == "DELETE_FAILED" and asked:
            raise LastlyError(
                f"CloudFormation could not delete {name}: {found.get('StackStatusReason', status)}"
            )
        if status != "DELETE_IN_PROGRESS":
            cloudformation.delete_stack(StackName=stack)
            asked = True
        sleep(pause)
        pause = min(pause * 1.6, 5.0)


def _describe(cloudformation: "Any", stack: str) -> "dict[str, Any] | None":
    try:
        reply = cloudformation.describe_stacks(StackName=stack)
    except Exception as error:
        if _code(error) == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    found: dict[str, Any] = reply["Stacks"][0]
    return found


# Under their public names: help(), repr() and the journal show lastly.integrations.aws:….
for _fn in (_terminate_instances, _delete_prefix, _delete_stack):
    _fn.__name__ = _fn.__qualname__ = _fn.__name__[1:]
    _fn.__module__ = "lastly.integrations.aws"
terminate_instances = Action(
    _terminate_instances, name="lastly.integrations.aws:terminate_instances", prepare=_prepare_instances,
    remote=True, retries=8, timeout=300.0, backoff=5.0,
)  # fmt: skip
delete_prefix = Action(
    _delete_prefix, name="lastly.integrations.aws:delete_prefix", prepare=_prepare_prefix,
    remote=True, retries=8, timeout=1800.0, backoff=5.0, describe="delete s3://{bucket}/{prefix}",
)  # fmt: skip
delete_stack = Action(
    _delete_stack, name="lastly.integrations.aws:delete_stack", prepare=_prepare_stack,
    remote=True, retries=8, timeout=3600.0, backoff=10.0,
)  # fmt: skip
