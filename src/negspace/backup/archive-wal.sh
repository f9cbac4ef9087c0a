#!/bin/sh
# archive_command: archive-wal.sh PATH NAME FOLDER
# One file of the log into the archive: whole and on the disk, or not at all. PostgreSQL calls
# it again until it succeeds, and after a crash for files that it has archived already.
set -eu
umask 077
target="$3/$2.gz"
part="$3/.$2.part"
if [ -e "$target" ]; then
    gzip -dc "$target" | cmp -s - "$1" && exit 0
    echo "$target is there already, with another content" >&2
    exit 1
fi
gzip -1 -c "$1" > "$part"
sync "$part"
mv "$part" "$target"
sync "$3"
