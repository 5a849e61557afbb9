"""`gateway backup` and `gateway restore`: they work while the gateway runs, and while it does not."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.access import authority, identity
from gateway.cli import data, passphrase
from gateway.cli.progress import Bar
from gateway.cli.run import DEFAULT_CONFIG
from gateway.store.backups import archive, backup, restore, snapshot
from gateway.store.backups.archive import Archive, Manifest
from gateway.store.errors import BackupError
from gateway.store.exchange.errands import TakeSnapshot

IDENTITY_FILES = (identity.ID, identity.KEY, identity.CERTIFICATE, authority.FILE)


def backup_command(options: argparse.Namespace) -> int:
    """Make a backup, or verify one."""
    return _verify(options) if options.verify else _make(options)


def restore_command(options: argparse.Namespace) -> int:
    """Bring a backup back."""
    folder, settings = data.folder(options.data), options.config or DEFAULT_CONFIG
    with archive.opened(Path(options.source)) as found:
        _unlock(found, options)
        restore.expect_settings(found, settings, force=options.force)
        about = found.manifest
        with Bar("restoring", sum(each.size for each in about.entries)) as bar:
            if options.settings_only:
                asyncio.run(restore.what_people_set_up(found, folder, force=options.force, progress=bar.add))
                aside = False
            else:
                aside = restore.data(found, folder, force=options.force, progress=bar.add)
        written = restore.settings(found, settings, force=options.force)
    what = "settings" if options.settings_only else f"{about.readings} readings"
    print(f"{what} of {about.gateway_id}, {about.moment:%Y-%m-%d %H:%M:%S} UTC, are in {folder}", file=sys.stderr)
    if aside:
        print(
            f"what was there before is in {folder}/before-restore-N; remove it when nothing is missing", file=sys.stderr
        )
    if written:
        print(f"settings are in {settings}", file=sys.stderr)
    if not about.keys:
        print("the backup has no keys: make new tokens, and pair assistants and nodes again", file=sys.stderr)
    if options.json:
        print(json.dumps(_said(about) | {"data": str(folder), "settings": str(settings) if written else None}))
    return 0


def _make(options: argparse.Namespace) -> int:
    folder, target = data.folder(options.data), str(options.target)
    if Path(target).resolve().is_relative_to(folder.resolve()):
        raise BackupError(f"{target} is inside the data folder: a medium that fails takes both; name another one")
    secret = None if options.no_keys else passphrase.new(options.passphrase_file)
    if not folder.is_dir():
        raise BackupError(f"{folder}: no gateway ever ran here; name its data folder with --data")
    with snapshot.lend(folder) as place:
        taken = data.send(TakeSnapshot(name=place.name, keys=secret is not None), folder)
        found = snapshot.look(place)
        settings = taken["settings"] or options.config or DEFAULT_CONFIG
        what = backup.parts(found, _others(folder, Path(settings), keys=secret is not None))
        about = _about(found, folder, keys=secret is not None)
        with Bar("backing up", backup.missing_bytes(target, what, about.gateway_id)) as bar:
            made, written = backup.write(target, what, about, secret, bar.add)
    size = f"{written.bytes / 1e6:.1f} MB"
    print(f"{target}: {written.added} files added ({size}), {written.kept} were there already", file=sys.stderr)
    if secret is None:
        print("without a passphrase: identity, tokens, node keys and audit are NOT in it", file=sys.stderr)
    if not any(each.name == archive.SETTINGS for each in made.entries):
        print(f"no settings file is in it: {settings} does not exist", file=sys.stderr)
    for name in written.damaged:
        print(f"{name} is not what was sealed once (a failing medium?): it is in the backup as it is", file=sys.stderr)
    if options.json:
        print(json.dumps(_said(made) | {"added": written.added, "kept": written.kept, "bytes": written.bytes}))
    return 0


def _verify(options: argparse.Namespace) -> int:
    with archive.opened(Path(options.target)) as found:
        if found.is_locked and (secret := passphrase.known(options.passphrase_file)) is not None:
            found.unlock(secret)
        about = found.manifest
        with Bar("verifying", sum(each.size for each in about.entries)) as bar:
            found.verify(bar.add)
        depth = "as it was written; give the passphrase to look inside" if found.is_locked else "as it was"
    what = f"{about.readings} readings up to {about.moment:%Y-%m-%d %H:%M:%S} UTC"
    print(f"{options.target}: {what}, every file is {depth}", file=sys.stderr)
    if options.json:
        print(json.dumps(_said(about)))
    return 0


def _unlock(found: Archive, options: argparse.Namespace) -> None:
    if not found.is_locked:
        return
    secret = passphrase.known(options.passphrase_file)
    if secret is None:
        raise BackupError(f"{found.place} is encrypted: give its passphrase, as with --passphrase-file")
    found.unlock(secret)


def _others(folder: Path, settings: Path, *, keys: bool) -> dict[str, Path]:
    """What belongs into a backup beside the store's files, by the name it is restored to."""
    found = {archive.SETTINGS: settings} if settings.is_file() else {}
    if keys:
        found |= {f"{archive.IDENTITY}/{name}": folder / "identity" / name for name in IDENTITY_FILES}
    return {name: file for name, file in found.items() if file.exists()}


def _about(found: snapshot.Snapshot, folder: Path, *, keys: bool) -> Manifest:
    return Manifest(
        version=__version__,
        gateway_id=_gateway_id(folder / "identity" / identity.ID),
        moment=found.moment,
        batch=found.batch,
        schema_number=found.schema,
        opens_from=found.opens_from,
        readings=found.readings,
        keys=keys,
        entries=(),
    )


def _gateway_id(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror}: run this as the gateway's user, or with sudo") from error


def _said(about: Manifest) -> dict[str, Any]:
    return about.model_dump(mode="json", exclude={"entries", "proof"}) | {"files": len(about.entries)}
