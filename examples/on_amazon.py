"""Amazon as the cloud of build_site.py: a machine from EC2, and a prefix of an S3 bucket instead of its disk.

    python examples/build_site.py . HEAD --site /tmp/site --cloud s3://BUCKET

Region and credentials are those of boto3; AWS_ENDPOINT_URL leads to another Amazon, like `moto_server`.
"""

from __future__ import annotations

import os

import boto3
from botocore.exceptions import ClientError

from failpoint import failpoint
from lastly.integrations import aws


def rent(cloud: str) -> str:
    """Rent a machine, and a place that it can read: its address. Both are given back at the end."""
    bucket = cloud.removeprefix("s3://").strip("/")
    place = aws.s3_prefix(bucket, "builds/")
    aws.run_instances(ImageId=os.environ.get("BUILD_IMAGE", "ami-12c6146b"), InstanceType="t3.micro")
    failpoint("rent")
    return f"s3://{bucket}/{place}"


def ask(place: str, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """PUT or GET one page there, answered as a machine's disk would."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    page = {"Bucket": bucket, "Key": prefix + path.lstrip("/")}
    s3 = boto3.client("s3")
    try:
        if method == "PUT":
            s3.put_object(**page, Body=body)
            return 201, b""
        return 200, s3.get_object(**page)["Body"].read()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], b""
