#!/bin/sh
# Installs docker-regpush as a plugin of the docker CLI, with its man pages and completions. `usage` lists the options. Never prompts.
#
# Nothing is half installed: each file is written under a temporary name in the folder where it belongs, and the files get their
# names after all of them were written and the program has run.
set -eu

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
usage() {
    cat <<'USAGE'
usage: install.sh [OPTIONS]

Without --from, builds docker-regpush from this source code; this needs Rust 1.89 or later and a C linker. Installs it into
${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins, and man pages and completions into the user's folders for these, if they exist.

  --from FILE|URL   install a built archive (docker-regpush-VERSION-linux-amd64.tar.gz); needs no Rust
  --sha256 SUM      the checksum of the archive; otherwise it must be in FILE.sha256, or in SHA256SUMS next to the archive
  --force           also replace a newer version
  --system          for every user: below /usr/local
  --uninstall       remove what was installed (with --system: for every user)
  --demo            install, then push a small image to a registry with a password
USAGE
}
wrong_usage() {
    printf 'install.sh: %s\n' "$*" >&2
    usage >&2
    exit 125
}
has() { command -v "$1" >/dev/null 2>&1; }

from='' sum='' force='' system='' demo='' uninstall='' work='' policy='' is_staging=''
while [ $# -gt 0 ]; do
    case $1 in
        --from | --sha256)
            [ "${2-}" ] || wrong_usage "$1 needs a value"
            if [ "$1" = --from ]; then from=$2; else sum=$2; fi
            shift
            ;;
        --from=?*) from=${1#*=} ;;
        --sha256=?*) sum=${1#*=} ;;
        --force) force=yes ;;
        --system) system=yes ;;
        --demo) demo=yes ;;
        --uninstall) uninstall=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) wrong_usage "unknown option $1" ;;
    esac
    shift
done
[ -z "$sum" ] || [ "$from" ] || wrong_usage "--sha256 is the checksum of an archive, which --from names"
[ -z "$uninstall" ] || [ -z "$from$demo" ] || wrong_usage "--uninstall excludes --from and --demo"
if [ "$sum" ] && { [ "${#sum}" != 64 ] || [ "$(printf %s "$sum" | tr -d 0-9A-Fa-f)" ]; }; then
    wrong_usage "--sha256 needs 64 hexadecimal digits"
fi

# The folders of the installed files. `made` is the folder of `plugins`, unless the user has chosen it.
if [ "$system" ]; then
    umask 022
    made=/usr/local/lib/docker
    plugins=$made/cli-plugins share=/usr/local/share fish=/usr/local/share/fish/vendor_completions.d
else
    [ "${DOCKER_CONFIG:-${HOME:-}}" ] || fail "no home directory: set HOME or DOCKER_CONFIG, or use --system"
    made=''
    [ "${DOCKER_CONFIG:-}" ] || made=$HOME/.docker
    plugins=${DOCKER_CONFIG:-$made}/cli-plugins
    share=${XDG_DATA_HOME:-${HOME:-}/.local/share} fish=${XDG_CONFIG_HOME:-${HOME:-}/.config}/fish/completions
fi
case $plugins in /*) ;; *) plugins=$PWD/$plugins ;; esac
plugin=$plugins/docker-regpush

# for_each_file COMMAND: runs COMMAND with three arguments for each file: its path in the archive, its folder, its name. Man pages
# and completions are only for folders that the user, or a program that reads them, has made.
for_each_file() {
    "$@" docker-regpush "$plugins" docker-regpush
    if [ -d "$share/man" ]; then
        for page in docker-regpush docker-regpush-auth docker-regpush-hook docker-regpush-ls; do
            "$@" "man/$page.1" "$share/man/man1" "$page.1"
        done
    fi
    if [ -d "$share/bash-completion" ]; then
        "$@" completions/docker-regpush.bash "$share/bash-completion/completions" docker-regpush
    fi
    if [ -d "$share/zsh" ]; then
        "$@" completions/_docker-regpush "$share/zsh/site-functions" _docker-regpush
    fi
    if [ -d "${fish%/*}" ]; then
        "$@" completions/docker-regpush.fish "$fish" docker-regpush.fish
    fi
}

# Installs packages without starting the services of these packages.
apt_install() {
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"; } \
        >"$work/apt.log" 2>&1 || {
        tail -n 20 "$work/apt.log" >&2
        fail "apt-get could not install $*"
    }
    remove_policy
}

remove_policy() {
    [ -z "$policy" ] || rm -f "$policy"
    policy=''
}

# Succeeds if this script can install missing packages: only as root on Debian or Ubuntu.
may_install() { has apt-get && [ "$(id -u)" = 0 ]; }

# ---------------------------------------------------------------------------------------------
# build and install

# Finds the user's Rust toolchain even if HOME is set to another folder. Checks that cargo and a C linker exist.
find_rust() {
    if has getent && [ ! -d "${HOME:-}/.rustup" ]; then
        home=$(getent passwd "$(id -u)" | cut -d: -f6)
        [ -d "$home/.rustup" ] && export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        [ -d "$home/.cargo" ] && export CARGO_HOME="${CARGO_HOME:-$home/.cargo}"
        [ -d "$home/.cargo/bin" ] && PATH=$PATH:$home/.cargo/bin
    fi
    has cargo || fail "cargo is missing: install Rust 1.89 or later (https://rustup.rs) and run this again, or pass --from FILE|URL with a built archive"
    # For the demo, this script installs a missing C linker if it can.
    if ! has cc && [ "$demo" ] && may_install; then
        say "installing gcc, for its linker"
        apt_install gcc libc6-dev
    fi
    has cc || fail "a C linker is missing: on Debian or Ubuntu \`apt-get install gcc libc6-dev\`, then run this again"
}

# Builds the program. Sets `program` to its path, and `documents` to the folder of the man pages and completions.
build() {
    here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
    [ -f "$here/Cargo.toml" ] || fail "there is no source code in $here: pass --from FILE|URL with a built archive"
    find_rust
    say "building docker-regpush (a few minutes the first time)"
    # Sets the target directory explicitly, because cargo's configuration may set another directory.
    cd "$here"
    target=${CARGO_TARGET_DIR:-$here/target}
    (unset CARGO_BUILD_TARGET && cargo build --release --locked --quiet --target-dir "$target") ||
        fail "the build failed; Rust 1.89 or later is needed"
    program=$target/release/docker-regpush documents=$here/docs
}

# download URL FILE: prints the reason if it fails.
download() {
    if has curl; then curl -fsSL --retry 3 -o "$2" "$1" 2>&1; else wget -nv -O "$2" "$1" 2>&1; fi
}

# sha256 FILE: prints the checksum.
sha256() {
    if has sha256sum; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -c 1-64
}

# beside NAME: writes the file NAME, which is in the folder of the archive, to $work/NAME. Fails if there is none.
beside() {
    case $from in
        *://*) download "$folder/$1" "$work/$1" >/dev/null ;;
        *) cp "$folder/$1" "$work/$1" 2>/dev/null ;;
    esac
}

# Sets `sum` to the checksum that is in the folder of the archive.
find_sum() {
    if beside "$name.sha256"; then
        sum=$(cut -c 1-64 "$work/$name.sha256" | head -n 1)
    elif beside SHA256SUMS; then
        # A line has the checksum, a blank, `*` or a blank, and the name.
        sum=$(name=$name awk 'substr($0, 67) == ENVIRON["name"] { print substr($0, 1, 64) }' "$work/SHA256SUMS" | head -n 1)
        [ "$sum" ] || fail "cannot verify $from: SHA256SUMS in $folder does not list $name"
    else
        fail "cannot verify $from: cannot get $name.sha256 or SHA256SUMS from $folder; pass --sha256 SUM"
    fi
}

# Unpacks the archive `from` after its checksum was verified. Sets `program` and `documents` as `build` does.
unpack() {
    has sha256sum || has shasum || fail "cannot verify a checksum: install sha256sum or shasum"
    case $from in
        *://*)
            has curl || has wget ||
                fail "a URL needs curl or wget: install one of them, or download the archive and its checksum, and pass the file"
            address=${from%%[?#]*} archive=$work/archive
            name=${address##*/} folder=${address%/*}
            reason=$(download "$from" "$archive") || fail "cannot download $from: $reason"
            ;;
        *)
            archive=$from name=${from##*/} folder=$(dirname -- "$from")
            { [ -f "$from" ] && [ -r "$from" ]; } || fail "cannot read $from: there is no such file, or it is not readable"
            ;;
    esac
    [ "$sum" ] || find_sum
    found=$(sha256 "$archive")
    [ "$found" = "$(printf %s "$sum" | tr A-F a-f)" ] ||
        fail "$from is damaged, or not the expected archive: its checksum is $found, not $sum"
    mkdir "$work/unpacked"
    reason=$(tar -C "$work/unpacked" -xzof - 2>&1 <"$archive") ||
        fail "cannot unpack $from: $(printf '%s\n' "$reason" | grep . | head -n 1)"
    for program in "$work"/unpacked/*/docker-regpush; do :; done
    [ -f "$program" ] || fail "there is no docker-regpush in $from: it is not an archive of docker-regpush for this system"
    documents=${program%/*}
}

remove_empty() { rmdir "$1" 2>/dev/null || :; }

# stage SOURCE FOLDER NAME: writes a file under a temporary name. A name with a dot is not a plugin to docker.
stage() {
    case $1 in
        docker-regpush) file=$program mode=755 ;;
        *) file=$documents/$1 mode=644 ;;
    esac
    [ ! -d "$2/$3" ] || fail "cannot replace $2/$3: it is a folder"
    { reason=$(mkdir -p "$2" 2>&1) && reason=$(cp "$file" "$2/.$3.$$" 2>&1) && reason=$(chmod "$mode" "$2/.$3.$$" 2>&1); } ||
        fail "cannot write to $2: ${reason##*: }; nothing was changed"
}
unstage() { rm -f "$2/.$3.$$" && remove_empty "$2"; }
# remove_made: removes the folder of `plugins` if it is empty.
remove_made() { [ -z "$made" ] || remove_empty "$made"; }
put() { mv -f "$2/.$3.$$" "$2/$3"; }
tell() { [ "$1" = docker-regpush ] || say "installed $2/$3"; }

# version PROGRAM: prints the version of a docker-regpush, without the commit; nothing if it does not run.
version() { "$1" --version 2>/dev/null | sed -n 's/^docker-regpush \([0-9][^ ]*\).*/\1/p'; }

# is_newer A B: succeeds if version A is newer than version B. An empty version is the oldest.
is_newer() {
    # `sort -V` puts `~` first, as a pre-release comes before its release.
    [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | tr - '~' | sort -V | tail -n 1)" = "$(printf %s "$1" | tr - '~')" ]
}

install_plugin() {
    is_staging=yes
    # The build takes minutes, so a folder without permission is found before it.
    { reason=$(mkdir -p "$plugins" 2>&1) && [ -w "$plugins" ]; } ||
        fail "cannot write to $plugins${reason:+: ${reason##*: }}; nothing was changed"
    if [ "$from" ]; then unpack; else build; fi
    for_each_file stage
    staged=$plugins/.docker-regpush.$$
    reason=$("$staged" --version 2>&1) ||
        fail "this docker-regpush does not run on this machine ($(uname -sm)), so nothing was changed: $reason"
    old='' new=$(version "$staged")
    [ ! -x "$plugin" ] || old=$(version "$plugin")
    [ "$force" ] || ! is_newer "$old" "$new" ||
        fail "$plugin is docker-regpush $old, which is newer than $new: pass --force to replace it"
    for_each_file put
    is_staging=''
    say "installed $("$plugin" --version) into $plugins"
    for_each_file tell
    has docker || say "docker is not installed; until it is, run $plugin directly"
}

removed=''
# remove SOURCE FOLDER NAME: removes a file, files of installations that were killed, and the folder if nothing else is in it.
remove() {
    if [ -e "$2/$3" ] || [ -h "$2/$3" ]; then
        rm -f "$2/$3" || fail "cannot remove $2/$3"
        say "removed $2/$3"
        removed=yes
    fi
    rm -f "$2/.$3".[0-9]*
    remove_empty "$2"
}
# ---------------------------------------------------------------------------------------------
# The demo. At the end, `clean_up` stops and removes everything that the demo has started, even after a failure or an
# interrupt.

registry_pid='' engine_pid='' container='' pulled='' image=''

clean_up() {
    trap - EXIT INT TERM HUP PIPE
    remove_policy
    [ -z "$is_staging" ] || { for_each_file unstage && remove_made; }
    if [ "$image" ]; then
        docker rmi -f "$image" >/dev/null 2>&1 || :
    fi
    [ -z "$container" ] || docker rm -fv "$container" >/dev/null 2>&1 || :
    [ -z "$pulled" ] || docker rmi -f registry:2 >/dev/null 2>&1 || :
    for pid in $registry_pid $engine_pid; do
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
    [ -z "$work" ] || {
        # An engine may leave a bind mount of its data folder, which must be unmounted before the folder is removed.
        awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts 2>/dev/null | sort -r |
            while read -r mounted; do umount "$mounted" || :; done
        rm -rf "$work"
    }
}

until_true() { # until_true SECONDS WHAT COMMAND...
    tries=$(($1 * 10))
    what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "timed out waiting for $what"
        sleep 0.1
    done
}

start_engine() {
    if ! has docker && may_install; then
        say "installing the package docker.io"
        apt_install docker.io
    fi
    has docker || fail "docker is missing: install it first (https://docs.docker.com/engine/install/)"
    # The demo's registry listens on the loopback interface, so the engine must run on this machine.
    endpoint=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null)} || :
    case $endpoint in
        unix://* | npipe://*) ;;
        *) fail "the demo starts a registry on this machine, but the engine at $endpoint is on another: unset DOCKER_HOST or choose a local context" ;;
    esac
    if docker version >/dev/null 2>&1; then
        say "using the engine that answers: docker $(docker version --format '{{.Server.Version}}')"
        return
    fi
    if ! has dockerd && may_install; then
        say "installing the package docker.io"
        apt_install docker.io
    fi
    { has dockerd && [ "$(id -u)" = 0 ]; } || fail "no engine answers: start docker, or run the demo as root on Debian or Ubuntu"
    unset DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    export DOCKER_HOST="unix://$work/docker.sock"
    printf '{}\n' >"$work/daemon.json"
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" \
        --config-file "$work/daemon.json" --bridge=none --iptables=false --ip6tables=false >"$work/dockerd.log" 2>&1 &
    engine_pid=$!
    until_true 60 "the engine (its log: $work/dockerd.log)" docker version
    say "started an engine for the demo: docker $(docker version --format '{{.Server.Version}}')"
}

# The only user who may push to the demo's registry: `demo`, with the password `open sesame`.
password='open sesame'
# shellcheck disable=SC2016 # a bcrypt hash, as `htpasswd -nbB` prints it
htpasswd='demo:$2y$05$qReCNM6MUcp1MlDQNq3mgOF9n0iTXFCF9/ga0uc4wNLmrf9TrZhfa'

start_registry() {
    if ! has docker-registry && may_install; then
        say "installing the package docker-registry"
        apt_install docker-registry
    fi
    printf '%s\n' "$htpasswd" >"$work/htpasswd"
    if has docker-registry; then
        cat >"$work/registry.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: 127.0.0.1:0}
auth: {htpasswd: {realm: demo, path: $work/htpasswd}}
YAML
        docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
        registry_pid=$!
        until_true 30 "the registry" grep -q 'listening on 127.0.0.1:' "$work/registry.log"
        port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/registry.log" | head -n 1)
    else
        docker image inspect registry:2 >/dev/null 2>&1 || pulled=yes
        container=$(docker create -p 127.0.0.1::5000 -e REGISTRY_AUTH=htpasswd -e REGISTRY_AUTH_HTPASSWD_REALM=demo \
            -e REGISTRY_AUTH_HTPASSWD_PATH=/htpasswd registry:2) || fail "cannot create a container from registry:2"
        docker cp "$work/htpasswd" "$container:/htpasswd" >/dev/null
        docker start "$container" >/dev/null
        port=$(docker port "$container" 5000/tcp | sed -n 's/.*://p' | head -n 1)
        listens() { docker logs "$container" 2>&1 | grep -q 'listening on '; }
        until_true 30 "the registry" listens
    fi
    say "started a registry with a password at localhost:$port"
}

show() { printf '\n$ %s\n' "$*"; }

# Pushes the image at a terminal that script(1) provides, and answers each prompt when the prompt appears.
push_at_terminal() {
    log=$work/terminal.log
    : >"$log"
    asked() { until_true 60 "the question" grep -q "$1" "$log"; }
    {
        asked 'Username: ' && printf 'demo\n'
        asked 'Password: ' && printf '%s\n' "$password"
        # Keeps stdin open until the push has finished, because script(1) would pass the end of stdin on as Ctrl-D.
        until_true 60 "the push" grep -Eq "@sha256:|error:" "$log"
    } | script -qefc "docker regpush $image" "$log"
}

demo() {
    start_engine
    start_registry

    printf 'hello from docker regpush, %s\n' "$(date)" >"$work/hello.txt"
    tar -C "$work" -cf "$work/image.tar" hello.txt
    image=localhost:$port/demo/hello:1
    docker import "$work/image.tar" "$image" >/dev/null

    say ""
    say "1. No credentials are stored, and without a terminal the plugin cannot prompt:"
    show "docker regpush $image </dev/null"
    status=0
    docker regpush "$image" </dev/null || status=$?
    say "(exit status $status)"
    [ "$status" = 3 ] || fail "the push should have failed with exit status 3"

    say ""
    if script --version 2>/dev/null | grep -q util-linux; then
        say "2. On a terminal the plugin prompts; the demo types the user \`demo\` and the password:"
        show "docker regpush $image"
        push_at_terminal || fail "the push failed"
    else
        say "2. With the password on stdin:"
        show "docker regpush --username demo --password-stdin $image <password"
        printf '%s\n' "$password" | docker regpush --username demo --password-stdin "$image"
    fi

    say ""
    say "3. In a script, stdout is the digest and nothing else:"
    show "reference=\$(docker regpush -q -u demo --password-stdin $image <password); echo \$reference"
    reference=$(printf '%s\n' "$password" | docker regpush -q -u demo --password-stdin "$image")
    say "$reference"

    say ""
    say "4. The tag, read back from the registry after the local image is removed:"
    docker rmi -f "$image" >/dev/null
    mkdir "$work/config"
    printf '{"auths":{"localhost:%s":{"auth":"%s"}}}\n' "$port" "$(printf 'demo:%s' "$password" | base64)" \
        >"$work/config/config.json"
    show "docker pull $image"
    docker --config "$work/config" pull "$image" | tee "$work/pulled"
    grep -q "^Digest: ${reference##*@}\$" "$work/pulled" || fail "the digest in the registry differs from the pushed digest"
    clean_up
    say ""
    say "Done. Everything that the demo started is stopped and removed. Next: docker regpush --help"
}

if [ "$uninstall" ]; then
    for_each_file remove
    remove_made
    [ "$removed" ] || say "nothing is installed at $plugin"
    exit 0
fi
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
trap 'exit 141' PIPE
work=$(mktemp -d "${TMPDIR:-/tmp}/regpush-install.XXXXXX") || fail "cannot write to ${TMPDIR:-/tmp}"
install_plugin
[ -z "$demo" ] || demo
