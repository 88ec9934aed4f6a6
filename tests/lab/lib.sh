# Shared by the lab and the guest builder: the cache, kernels as Debian packages, files for an
# initramfs. Sourced, never run.
# shellcheck shell=bash

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

# kernel SERIES - prints the directory that holds the newest unsigned cloud kernel of the series
# (6.12 or 6.1): vmlinuz, version, and the package's lib/modules. Downloaded once.
kernel() {
  local series=$1 dir="$CACHE/linux-$1" lock
  mkdir -p "$CACHE"
  exec {lock}>"$dir.lock"
  flock "$lock"
  [ -e "$dir/version" ] || kernel_fetch "$series" "$dir" >&2
  exec {lock}>&-
  echo "$dir"
}

kernel_fetch() {
  local series=$1 dir=$2 work package
  work=$(scratch)
  kernel_package() {
    apt-cache search --names-only "^linux-image-${series//./\\.}\\..*-cloud-amd64-unsigned\$" |
      awk '{print $1}' | sort -V | tail -1
  }
  # The package lists may be absent, or so old that what they name is gone.
  package=$(kernel_package)
  download() { (cd "$work" && apt-get -o APT::Sandbox::User="$(id -un)" download -qq "$1"); }
  if [ -z "$package" ] || ! download "$package"; then
    [ "$(id -u)" -eq 0 ] && apt-get update -qq
    package=$(kernel_package)
    [ -n "$package" ] || die "no Debian package of a $series cloud kernel is known: run apt-get update as root"
    download "$package" || die "cannot download $package"
  fi
  dpkg -x "$work/$package"_*.deb "$work/tree"
  mkdir "$work/done"
  mv "$work"/tree/boot/vmlinuz-* "$work/done/vmlinuz"
  if [ -d "$work/tree/usr/lib/modules" ]; then
    mv "$work/tree/usr/lib/modules" "$work/done/modules"
  else
    mv "$work/tree/lib/modules" "$work/done/modules"
  fi
  ls "$work/done/modules" > "$work/done/version"
  rm -rf "$dir"
  mv -T "$work/done" "$dir"
  rm -rf "$work"
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
  ldd "$file" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
    [ -e "$tree$library" ] && continue
    mkdir -p "$tree$(dirname "$library")"
    cp -L "$library" "$tree$library"
  done
}

# base_tree TREE - directories and busybox.
base_tree() {
  mkdir -p "$1"/{bin,dev,proc,sys,tmp,run,etc,root,usr}
  cp -L "$(command -v busybox)" "$1/bin/busybox"
  local applet
  for applet in $("$1/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$1/bin/$applet"
  done
}

pack() { (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet -R 0:0); }
