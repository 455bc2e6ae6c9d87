# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # variables shared with who sources this
#
# How tools/guest-kernel and tools/host-kernel build a kernel: Debian's kernel
# source, a series of patches, fragments of a configuration. The result is kept
# under a hash of everything that went in, so asking again for the same kernel
# only prints where it is.
#
# Whoever sources this sets the variables that are not set here, defines
# usage(), shipped_fragments() and, if it wants to, check_fragments() and
# collect_more(), and calls build_kernel with its own arguments.

readonly version=6.12
readonly tarball=${CASEMATE_KERNEL_TARBALL:-/usr/src/linux-source-$version.tar.xz}

# Part of the key: whatever changes the result without changing an input file.
readonly make_variables=(
	ARCH=x86
	'KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970'
	KBUILD_BUILD_USER=casemate
	KBUILD_BUILD_HOST=casemate
	KBUILD_BUILD_VERSION=1
	# kconfig notes the versions it finds, used or not.
	RUSTC=false
	PAHOLE=false
)
readonly strip_options=(--strip-debug)
# The unpacked source, its objects and the result, with some to spare.
readonly space_mib=1200

# More than half of the archive: other architectures, and devices that no
# kernel of ours drives. Their Kconfig files stay, because kconfig reads all of
# them. A fragment that asks for such a driver is refused
# (refuse_unpacked_drivers).
readonly sources_of_others=(
	"linux-source-$version/arch/"{alpha,arc,arm,arm64,csky,hexagon,loongarch,m68k}'/*.[chS]'
	"linux-source-$version/arch/"{microblaze,mips,nios2,openrisc,parisc}'/*.[chS]'
	"linux-source-$version/arch/"{powerpc,riscv,s390,sh,sparc,xtensa}'/*.[chS]'
	'*/drivers/'{accel,comedi,gpu,iio,infiniband,media,pinctrl,staging}'/*.[chS]'
	'*/drivers/net/'{ethernet,wireless}'/*.[chS]' '*/sound/*.[chS]'
)

# Both run with the work directory in $work, the tree in $tree.
check_fragments() { :; }
collect_more() { :; } # DIRECTORY

say() { printf '%s: %s\n' "$tool_name" "$*" >&2; }
die() { say "$@"; exit 1; }
misuse() { say "$1; try --help"; exit 2; }

# From the lines of a fragment on stdin.
option_names() { sed -nE 's/^(# )?(CONFIG_[A-Za-z0-9_]+)(=.*| is not set)$/\2/p'; }

# --- what goes in ------------------------------------------------------------

print_only=
out_dir=
patch_limit=
extra_patches=()
fragments=()

parse_options() {
	while (($#)); do
		case $1 in
		--help) usage; exit 0 ;;
		--print) print_only=yes; shift; continue ;;
		--config-fragment | --patches | --extra-patch | --out)
			(($# > 1)) || misuse "$1 needs a value" ;;
		*) misuse "unknown option '$1'" ;;
		esac
		case $1 in
		--config-fragment)
			[[ -f $2 && -r $2 ]] || misuse "cannot read the fragment '$2'"
			fragments+=("$(readlink -f -- "$2")") ;;
		--patches)
			[[ $2 =~ ^[0-9]{1,4}$ ]] || misuse "--patches needs a number, not '$2'"
			patch_limit=$((10#$2)) ;;
		--extra-patch)
			[[ -f $2 && -r $2 ]] || misuse "cannot read the patch '$2'"
			extra_patches+=("$(readlink -f -- "$2")") ;;
		--out)
			[[ -n $2 ]] || misuse "--out needs a directory"
			out_dir=$2 ;;
		esac
		shift 2
	done
}

find_patches() {
	shopt -s nullglob
	patches=("$recipe_dir"/[0-9][0-9][0-9][0-9]-*.patch)
	shopt -u nullglob
	if [[ -n $patch_limit ]]; then
		((patch_limit <= ${#patches[@]})) ||
			misuse "--patches $patch_limit: the series has ${#patches[@]}"
		patches=("${patches[@]:0:patch_limit}")
	fi
	patches+=(${extra_patches[@]+"${extra_patches[@]}"})
}

require_tools() {
	[[ -r $tarball ]] || die "$tarball is missing: tools/setup installs it"
	local tool missing=()
	for tool in gcc ld make flex bison bc "$compressor" xz tar patch perl python3 flock; do
		command -v "$tool" >/dev/null || missing+=("$tool")
	done
	# objtool is built on the way.
	[[ -e /usr/include/libelf.h ]] || missing+=(libelf.h)
	((${#missing[@]} == 0)) || die "${missing[*]} missing: tools/setup installs what is needed"
}

digest() { sha256sum | cut -c1-"${1:-64}"; }

compute_keys() {
	local source_hash
	source_hash=$(sha256sum <"$tarball")
	source_id="$source_hash
$(gcc --version | head -n1)
$(ld --version | head -n1)
$("$compressor" --version | head -n1)
without ${unpacked_without[*]}"
	tree_key=$(digest 16 <<<"$source_id")

	local file
	key=$({
		printf '%s\n' "$source_id" "make ${make_variables[*]}" "strip ${strip_options[*]}"
		# Contents and order count, not where a file lies.
		for file in ${patches[@]+"${patches[@]}"}; do
			printf 'patch %s\n' "$(sha256sum <"$file")"
		done
		for file in "${fragments[@]}"; do
			printf 'fragment %s\n' "$(sha256sum <"$file")"
		done
	} | digest)
}

# --- the source tree ---------------------------------------------------------

# pristine/ is the unpacked archive; src/ is the same with the patches, hard
# linked where they change nothing, so an untouched file keeps its time and
# its object.
unpack() {
	[[ ! -e $tree/pristine ]] || return 0
	local free
	free=$(df --output=avail -m -- "$tree" | tail -n 1)
	((free >= space_mib)) ||
		die "the disk is full: a build takes $space_mib MiB in $cache, and $((free)) are free: free some or set CASEMATE_CACHE, and run it again"
	say "unpacking $(basename -- "$tarball")"
	rm -rf -- "$tree/unpacking" "$tree/src" "$tree/obj"
	mkdir -p -- "$tree/unpacking"
	xz -dc -T0 -- "$tarball" | tar -x -C "$tree/unpacking" --strip-components=1 \
		--no-same-owner "${unpacked_without[@]/#/--exclude=}" 2>>"$log" || fail_with_log "unpacking failed"
	mv -T -- "$tree/unpacking" "$tree/pristine"
}

files_of_patches() {
	((${#patches[@]})) || return 0
	sed -nE -e 's,^diff --git a/(.*) b/(.*)$,\1\n\2,p' "${patches[@]}" | sort -u
}

apply_patches() {
	if [[ ! -e $tree/src ]]; then
		rm -rf -- "$tree/linking" "$tree/obj"
		cp -al -- "$tree/pristine" "$tree/linking"
		: >"$tree/touched"
		mv -T -- "$tree/linking" "$tree/src"
	fi
	local touched file patch stage=$work/stage
	mkdir -- "$stage"
	# Files that earlier patches touched are in question too; the list is on
	# disk before the first of them changes.
	touched=$({ cat -- "$tree/touched"; files_of_patches; } | sort -u)
	printf '%s' "${touched:+$touched$'\n'}" >"$work/touched"
	mv -- "$work/touched" "$tree/touched"

	while IFS= read -r file; do
		[[ -e $tree/pristine/$file ]] || continue
		mkdir -p -- "$stage/$(dirname -- "$file")"
		cp -- "$tree/pristine/$file" "$stage/$file"
	done <"$tree/touched"
	for patch in ${patches[@]+"${patches[@]}"}; do
		patch -d "$stage" -p1 --batch --forward --fuzz=0 --no-backup-if-mismatch \
			--remove-empty-files <"$patch" >"$work/patch.log" 2>&1 || {
			cat -- "$work/patch.log" >&2
			die "$(basename -- "$patch") does not apply to the source in $(basename -- "$tarball")"
		}
	done
	while IFS= read -r file; do
		if [[ ! -e $stage/$file ]]; then
			rm -f -- "$tree/src/$file"
		elif ! cmp -s -- "$stage/$file" "$tree/src/$file"; then
			mkdir -p -- "$tree/src/$(dirname -- "$file")"
			# By rename: the old name may be a link to the pristine file.
			cp -- "$stage/$file" "$work/file"
			mv -- "$work/file" "$tree/src/$file"
		fi
	done <"$tree/touched"
}

# --- the configuration -------------------------------------------------------

kernel_make() {
	env -i PATH="$PATH" HOME=/nonexistent LC_ALL=C \
		make -C "$tree/src" O="$tree/obj" "${make_variables[@]}" "$@"
}

# The last fragment that names an option decides.
merge_fragments() {
	awk '/^(# )?CONFIG_[A-Za-z0-9_]+(=| is not set$)/ {
		name = $0; sub(/^# /, "", name); sub(/[= ].*/, "", name)
		if (!(name in line)) order[++count] = name
		line[name] = $0
	}
	END { for (i = 1; i <= count; i++) print line[order[i]] }' "$@"
}

configure() {
	merge_fragments "${fragments[@]}" >"$work/requested"
	check_fragments
	mkdir -p -- "$tree/obj"
	kernel_make -s KCONFIG_ALLCONFIG="$work/requested" KCONFIG_CONFIG="$work/config" \
		allnoconfig >>"$log" 2>&1 || fail_with_log "configuring the kernel failed"
	check_configuration
	refuse_unpacked_drivers
	# An equal file keeps its time, and spares make the question.
	cmp -s -- "$work/config" "$tree/obj/.config" || cp -- "$work/config" "$tree/obj/.config"
}

check_configuration() {
	local line name refused=()
	find "$tree/src" -name 'Kconfig*' -type f -exec sed -nE \
		's/^[[:space:]]*(menu)?config[[:space:]]+([A-Za-z0-9_]+).*/CONFIG_\2/p' {} + |
		sort -u >"$work/known"
	while IFS= read -r line; do
		name=$(option_names <<<"$line")
		if ! grep -qxF -- "$name" "$work/known"; then
			refused+=("$name (this kernel has no such option)")
		elif [[ $line == '# '* || $line == *=n ]]; then
			! grep -qE "^$name=" "$work/config" ||
				refused+=("$name (wanted off, is $(grep -E "^$name=" "$work/config" | cut -d= -f2-))")
		elif ! grep -qxF -- "$line" "$work/config"; then
			refused+=("$name (wanted ${line#*=}, is $(grep -E "^$name=" "$work/config" | cut -d= -f2- | grep . || echo off))")
		fi
	done <"$work/requested"
	((${#refused[@]} == 0)) && return
	say "the kernel's configuration does not have what was asked for:"
	printf '  %s\n' "${refused[@]}" >&2
	exit 1
}

refuse_unpacked_drivers() {
	local name
	for name in DRM_KMS_HELPER FB SND MEDIA_SUPPORT INFINIBAND STAGING IIO COMEDI PINCTRL \
		DRM DRM_ACCEL ETHERNET WLAN; do
		! grep -qx "CONFIG_$name=y" "$work/config" ||
			die "CONFIG_$name: those drivers' sources are not unpacked (see unpacked_without in tools/$tool_name)"
	done
}

# --- the build ---------------------------------------------------------------

fail_with_log() {
	! grep -q 'No space left on device' -- "$log" ||
		die "$1: the disk is full: free some or set CASEMATE_CACHE to another one, and run it again"
	say "$1; the end of $log:"
	tail -n 20 -- "$log" >&2
	exit 1
}

show_progress() {
	local pid=$1 total=$2 quiet_until=15 steps text
	while kill -0 "$pid" 2>/dev/null; do
		steps=$(grep -cE '^  [A-Z]' -- "$log") || true
		text="$steps steps"
		((total == 0)) || text="$steps of about $total steps, $((steps < total ? steps * 100 / total : 99))%"
		text="$tool_name: building: $text, $((SECONDS / 60))m$(printf %02d $((SECONDS % 60)))s"
		if [[ -t 2 ]]; then
			printf '\r%s\033[K' "$text" >&2
		elif ((SECONDS >= quiet_until)); then
			printf '%s\n' "$text" >&2
			quiet_until=$((SECONDS + 15))
		fi
		sleep 1
	done
	[[ ! -t 2 ]] || printf '\r\033[K' >&2
}

compile() {
	# Objects that a killed build left may be cut short and yet look new.
	if [[ -e $tree/building ]]; then
		say "the last build in this tree was cut short: starting over"
		find "$tree/obj" -mindepth 1 -maxdepth 1 ! -name .config -exec rm -rf -- {} +
	fi
	local total=0 status=0
	[[ -e $tree/obj/vmlinux.o ]] || total=$full_build_steps
	: >"$tree/building"
	# A group of its own, so that a signal to us ends all of it and we can wait.
	set -m
	local targets=(vmlinux bzImage)
	! grep -qx CONFIG_MODULES=y "$tree/obj/.config" || targets+=(modules)
	kernel_make -j"$(nproc)" "${targets[@]}" </dev/null >>"$log" 2>&1 &
	maker=$!
	set +m
	show_progress "$maker" "$total"
	wait "$maker" || status=$?
	maker=
	# make removes what it could not finish, unless it was killed.
	((status == 137)) || rm -f -- "$tree/building"
	((status == 0)) || fail_with_log "the build failed"
}

collect() {
	local result=$work/result
	mkdir -- "$result"
	objcopy "${strip_options[@]}" "$tree/obj/vmlinux" "$result/vmlinux"
	cp -- "$tree/obj/arch/x86/boot/bzImage" "$tree/obj/System.map" "$result/"
	cp -- "$tree/obj/.config" "$result/config"
	chmod 644 "$result"/*
	collect_more "$result"
	chmod 755 "$result"
	mv -T -- "$result" "$cache/$key"
}

work=
maker=
# shellcheck disable=SC2317 # a trap calls it
clean_up() {
	local status=0
	if [[ -n $maker ]]; then
		kill -TERM -- "-$maker" 2>/dev/null || true
		wait "$maker" 2>/dev/null || status=$?
		# An interrupted make removes what it had half done.
		((status == 137)) || rm -f -- "$tree/building"
	fi
	[[ -z $work ]] || rm -rf -- "$work"
}

build() {
	mkdir -p -- "$cache/trees/$tree_key" "$cache/logs"
	tree=$cache/trees/$tree_key
	exec 9>"$tree/lock"
	if ! flock -n 9; then
		say "waiting for another build in $tree"
		flock 9
	fi
	[[ ! -d $cache/$key ]] || return 0

	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	# Beside its destination, so that every move is a rename.
	work=$(mktemp -d "$tree/work.XXXXXX")
	log=$cache/logs/$key.log
	: >"$log"
	unpack
	apply_patches
	configure
	compile
	collect
	say "built in $((SECONDS / 60))m$(printf %02d $((SECONDS % 60)))s; the log is $log"
}

copy_out() {
	mkdir -p -- "$out_dir"
	cp -R -- "$cache/$key"/* "$out_dir/"
	out_dir=$(cd -- "$out_dir" && pwd)
}

build_kernel() {
	parse_options "$@"
	find_patches
	shipped_fragments
	require_tools
	compute_keys
	cache=${CASEMATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/casemate}/$tool_name
	[[ $cache == /* ]] || cache=$PWD/$cache
	if [[ -n $print_only ]]; then
		printf '%s\n' "$cache/$key"
		exit 0
	fi
	[[ -d $cache/$key ]] || build
	if [[ -n $out_dir ]]; then
		copy_out
		printf '%s\n' "$out_dir"
	else
		printf '%s\n' "$cache/$key"
	fi
}
