# Shared by the lab and the guest builder: the cache, kernels as Debian packages, files for an
# initramfs. Sourced, never run.
# shellcheck shell=bash

set -eEuo pipefail
trap 'echo "${0##*/}: line $LINENO of ${BASH_SOURCE[0]##*/} failed: $BASH_COMMAND" >&2' ERR

CACHE=${MINIVMM_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/minivmm}

die() {
  echo "${0##*/}: $*" >&2
  exit "${DIE_STATUS:-1}"
}

# need COMMAND:PACKAGE... - fails with the one apt-get line that cures it.
need() {
  local item missing=()
  for item in "$@"; do
    command -v "${item%%:*}" >/dev/null || missing+=("${item##*:}")
  done
  [ ${#missing[@]} -eq 0 ] || die "missing tools: apt-get install --no-install-recommends ${missing[*]}"
}

# scratch - prints a new directory under the cache that carries our PID. Directories of processes
# that were killed before they could clean up are removed on the way.
scratch() {
  local dir
  mkdir -p "$CACHE/tmp"
  for dir in "$CACHE"/tmp/*.*; do
    [ -d "$dir" ] && ! kill -0 "$(basename "$dir" | cut -d. -f1)" 2>/dev/null && rm -rf "$dir"
  done
  mktemp -d "$CACHE/tmp/$$.XXXXXX"
}

# cached NAME COMMAND... - prints the directory $CACHE/NAME. If it is not there, COMMAND makes it, as
# the directory that is given as its last argument. Safe against others doing the same.
cached() {
  local dir="$CACHE/$1" lock work
  shift
  mkdir -p "$CACHE"
  exec {lock}>"$dir.lock"
  flock "$lock"
  if [ ! -d "$dir" ]; then
    work=$(scratch)
    "$@" "$work/made" >&2
    mv -T "$work/made" "$dir"
    rm -rf "$work"
  fi
  exec {lock}>&-
  echo "$dir"
}

# kernel SERIES - prints the directory that holds the newest unsigned cloud kernel of the series
# (6.12 or 6.1): vmlinuz, version and modules.
kernel() { cached "linux-$1" fetch_kernel "$1"; }

fetch_kernel() {
  local out=$2
  unpack_package "^linux-image-${1//./\\.}\\..*-cloud-amd64-unsigned\$" "$out.tree"
  mkdir "$out"
  mv "$out.tree"/boot/vmlinuz-* "$out/vmlinuz"
  mv "$out.tree"/lib/modules "$out/modules" 2>/dev/null || mv "$out.tree"/usr/lib/modules "$out/modules"
  ls "$out/modules" > "$out/version"
}

fetch_busybox() { unpack_package '^busybox-static$' "$1"; }

# unpack_package PATTERN DIRECTORY - downloads the newest Debian package of that name. One at a time:
# apt fails where another has the lock of the package lists.
unpack_package() {
  local name lock
  exec {lock}>"$CACHE/apt.lock"
  flock "$lock"
  newest() { apt-cache search --names-only "$1" | awk '{print $1}' | sort -V | tail -1; }
  download() {
    mkdir -p "$2.deb"
    (cd "$2.deb" && apt-get -o APT::Sandbox::User="$(id -un)" download -qq "$1")
  }
  name=$(newest "$1")
  if [ -z "$name" ] || ! download "$name" "$2"; then
    # The package lists are absent, or so old that what they name is gone.
    [ "$(id -u)" -eq 0 ] && apt-get update -qq
    name=$(newest "$1")
    [ -n "$name" ] || die "no Debian package is known as $1: run apt-get update as root"
    download "$name" "$2" || die "cannot download the package $name"
  fi
  exec {lock}>&-
  dpkg -x "$2.deb/$name"_*.deb "$2"
}

# add_modules TREE KERNEL MODULE... - puts modules and what they depend on into TREE, and their
# load order into TREE/etc/modules. A module that the kernel has built in is skipped; one that it
# does not know at all is an error.
add_modules() {
  local tree=$1 kernel=$2 version name
  shift 2
  version=$(cat "$kernel/version")
  mkdir -p "$tree/lib/modules" "$tree/etc"
  touch "$tree/etc/modules"
  for name in "$@"; do
    add_module "$tree" "$kernel/modules/$version" "${name//-/_}"
  done
}

add_module() {
  local tree=$1 from=$2 name=$3 path out dependency
  out="$tree/lib/modules/$name.ko"
  [ ! -e "$out" ] || return 0
  # Files are spelled with either dash or underscore.
  path=$(find "$from" -name "${name//_/[_-]}.ko*" -print -quit)
  if [ -z "$path" ]; then
    grep -q "/${name//_/[_-]}\.ko\$" "$from/modules.builtin" ||
      die "kernel $(basename "$from") has no module $name"
    return 0
  fi
  case $path in
    *.xz) xz -dc "$path" > "$out" ;;
    *.zst) zstd -qdc "$path" > "$out" ;;
    *) cp "$path" "$out" ;;
  esac
  for dependency in $(tr '\0' '\n' < "$out" | sed -n 's/^depends=//p' | tr ',' ' '); do
    add_module "$tree" "$from" "${dependency//-/_}"
  done
  echo "/lib/modules/$name.ko" >> "$tree/etc/modules"
}

# add_file TREE FILE[:DEST] - copies a file (or what a link points to), and for a program the
# shared libraries that it names. DEST defaults to /bin/NAME.
add_file() {
  local tree=$1 file=${2%%:*} dest library
  case $2 in
    *:*) dest=${2#*:} ;;
    *) dest=/bin/$(basename "$file") ;;
  esac
  [ -f "$file" ] || die "no file $file"
  mkdir -p "$tree/$(dirname "$dest")"
  # The destination may be a link to busybox.
  cp -L --remove-destination "$file" "$tree/$dest"
  [ -x "$file" ] || return 0
  # A static program has none, and ldd says so by failing.
  { ldd "$file" 2>/dev/null || true; } | sed -n 's#^[^/]*\(/[^ ]*\).*#\1#p' | while read -r library; do
    [ -e "$tree$library" ] && continue
    mkdir -p "$tree$(dirname "$library")"
    cp -L "$library" "$tree$library"
  done
}

# base_tree TREE - directories, busybox and a shell. busybox's own shell prefers its applets to the
# programs in PATH, so sh is dash.
base_tree() {
  local applet
  mkdir -p "$1"/{bin,dev,proc,sys,tmp,run,etc,root,usr}
  add_file "$1" "$(cached busybox fetch_busybox)/bin/busybox"
  for applet in $("$1/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$1/bin/$applet"
  done
  add_file "$1" "$(command -v dash):/bin/sh"
}

pack() { (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet -R 0:0); }
