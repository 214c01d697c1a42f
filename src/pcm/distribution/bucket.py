"""A distribution server's files in a bucket, over S3: written by the site, read by clients as plain files over https.

Serves step 2, as another `shelf`. All of S3 is the work of `botocore` and `s3transfer`; what this adds is our names and our
errors. Nothing is ever half there: an object of a bucket appears when it is whole. (`boto3`, which stands on both, is left out:
where it is installed, `securesystemslib` loads it into every process that signs or verifies.)
"""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, Self, cast

from pcm.distribution.shelf import PIECE, Shelved
from pcm.model.errors import MachineError, RequestError, Retry, StoreError

_MANY = 32  # names of one prefix are listed rather than asked for one by one
_AT_ONCE = 8
_PART = 16 * 2**20
_TYPES = {".json": "application/json", ".zst": "application/zstd"}


class BucketKey(NamedTuple):
    """Who writes."""

    id: str
    secret: str


class BucketShelf:
    """A `Shelf` in a bucket.

    Args:
        name: The bucket's.
        prefix: Below which all files lie; "" for all of the bucket.
        endpoint: The server's URL; None: the cloud's own.
        key: None: found as botocore finds it (environment, machine's role).

    Raises:
        MachineError: `machine.missing_library`.
    """

    def __init__(
        self,
        name: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        key: BucketKey | None = None,
    ) -> None:
        self._bucket = name
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = _connect(endpoint, region, key)

    @property
    def title(self) -> str:
        """See `Shelf.title`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, name: str, most: int) -> bytes | None:
        """See `Shelf.read`."""
        try:
            with self.open(name) as file:
                data = file.read(most + 1)
        except RequestError:
            return None
        if len(data) > most:
            raise StoreError(f"{self.title}/{name} is longer than {most} bytes.", code="store.damaged")
        return data

    def open(self, name: str) -> BinaryIO:
        """See `Shelf.open`."""
        with _Mapped(self.title):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.ClientError as error:
                if _status(error) == 404:
                    raise RequestError(f"There is no {name} in {self.title}.", code="not_found") from None
                raise
        return cast("BinaryIO", _Reader(answer["Body"], self.title))

    def size(self, name: str) -> int | None:
        """See `Shelf.size`."""
        with _Mapped(self.title):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.ClientError as error:
                if _status(error) == 404:
                    return None
                raise
        return int(answer["ContentLength"])

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """See `Shelf.sizes`. Many names of one folder are listed."""
        if len(names) <= _MANY:
            return {name: size for name in names if (size := self.size(name)) is not None}
        wanted = set(names)
        folders = {name.partition("/")[0] + "/" for name in wanted}
        return {each.name: each.size for folder in folders for each in self.list(folder) if each.name in wanted}

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Shelf.write`. Large ones go in parts; the bucket shows them when they are complete."""
        kind = _TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        changing = name == "metadata/timestamp.json"
        headers = {
            "ContentType": kind,
            "CacheControl": "no-cache" if changing else "public, max-age=31536000, immutable",
        }
        source = cast("BinaryIO", io.BufferedReader(_Pieces(pieces), PIECE))
        from s3transfer.manager import TransferConfig, TransferManager  # noqa: PLC0415 - an optional library

        parts = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_request_concurrency=2)
        with _Mapped(self.title), TransferManager(self._client, parts) as transfers:
            transfers.upload(source, self._bucket, self._prefix + name, extra_args=headers).result()

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """See `Shelf.write_many`. Several at a time."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bucket") as pool:
            for written in [pool.submit(self.write, name, (content,)) for name, content in files.items()]:
                written.result()

    def list(self, prefix: str) -> Iterator[Shelved]:
        """See `Shelf.list`."""
        pages = self._client.get_paginator("list_objects_v2")
        with _Mapped(self.title):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for each in page.get("Contents", ()):
                    name = str(each["Key"]).removeprefix(self._prefix)
                    yield Shelved(name, int(each["Size"]), each["LastModified"].timestamp())

    def delete(self, name: str) -> bool:
        """See `Shelf.delete`."""
        there = self.size(name) is not None
        with _Mapped(self.title):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        return there


class _Pieces(io.RawIOBase):
    """Pieces as a file that can be read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


class _Reader:
    """An answer's body whose errors are ours."""

    def __init__(self, body: Any, title: str) -> None:
        self._body = body
        self._title = title

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._body.close()

    def read(self, count: int = -1) -> bytes:
        """Some bytes."""
        with _Mapped(self._title):
            data: bytes = self._body.read(None if count < 0 else count)
        return data


class _Mapped:
    """The one place where foreign errors become ours."""

    def __init__(self, title: str) -> None:
        self._title = title

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an optional library
        from s3transfer.exceptions import TransferNotDoneError  # noqa: PLC0415

        if isinstance(error, ClientError):
            told = error.response.get("Error", {})
            refused = _status(error) in (400, 401, 403, 404)
            code = "store.not_writable" if refused else "store.away"
            raise StoreError(
                f"{self._title}: {told.get('Code', '?')}: {str(told.get('Message', error))[:200]}",
                code=code,
                retry=Retry.LATER,
            ) from error
        if isinstance(error, (BotoCoreError, TransferNotDoneError)):
            raise StoreError(
                f"{self._title} cannot be reached: {str(error)[:200]}", code="store.away", retry=Retry.LATER
            ) from error


def _connect(endpoint: str | None, region: str, key: BucketKey | None) -> Any:
    try:
        import s3transfer  # noqa: F401, PLC0415 - an optional library
        from botocore.config import Config  # noqa: PLC0415
        from botocore.session import Session  # noqa: PLC0415
    except ImportError:
        raise MachineError(
            "Buckets need the libraries botocore and s3transfer: install package-command-manager[s3].",
            code="machine.missing_library",
        ) from None
    settings = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    secret = {} if key is None else {"aws_access_key_id": key.id, "aws_secret_access_key": key.secret}
    return Session().create_client("s3", endpoint_url=endpoint, region_name=region, config=settings, **secret)


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
