#!/usr/bin/env bash
# Installs astro for the user who runs it. `--help` says how; the release folder it reads is made by scripts/build-release.
# All code sits in functions that only the last line calls: a download that is cut short does nothing.
# Kept to what bash 3.2 (macOS) knows.

usage() {
  cat <<'EOF'
Install the astro command for the current user.

  curl -fsSL URL/install.sh | bash                              the newest release
  curl -fsSL URL/install.sh | bash -s -- --version 0.1.0        that release; also goes back to an older one
  curl -fsSL URL/install.sh | sudo bash                         the same, for the user who called sudo
  ./install.sh                                                  this checkout (beside pyproject.toml)

Run it again to upgrade or repair. It uses uv, else pipx, else makes a private virtual environment.

Options:
  --version X    install release X instead of the newest
  --uninstall    remove astro; your projects and settings stay
  --help         show this

Environment:
  ASTRO_EXTRAS        what few need: kubernetes, for deployments on a cluster
  ASTRO_INSTALL_URL   the folder with the release (https, or http on this machine only)
  XDG_DATA_HOME       where the private parts go (default: ~/.local/share)
EOF
}

say() { printf '%s\n' "$*"; }

# fail MESSAGE HINT [EXIT_CODE]: the one way out when something is wrong.
fail() {
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit "${3:-1}"
}

have() { command -v "$1" >/dev/null 2>&1; }

main() {
  set -euo pipefail
  local checkout=""
  case $0 in
    install.sh | */install.sh)
      checkout=$(cd "$(dirname "$0")" && pwd)
      grep -qs '^name = "astro-cli"' "$checkout/pyproject.toml" || checkout=""
      ;;
  esac
  if [ "$(id -u)" -eq 0 ] && [ "${SUDO_USER:-root}" != root ]; then
    run_as_invoking_user "$SUDO_USER" "$checkout" "$@"
  fi
  run "$checkout" "$@"
}

# Under sudo the whole script runs again as the user who called it, so nothing in their home can end up owned by root.
run_as_invoking_user() {
  local user=$1 home="" code
  shift
  case $user in
    *[!A-Za-z0-9._@+-]*) fail "cannot install for the user '$user'" "run this without sudo" ;;
  esac
  id -u "$user" >/dev/null 2>&1 || fail "the user '$user' does not exist" "run this without sudo"
  eval "home=~$user"
  code="$(declare -f)"$'\nrun "$@"'
  unset TMPDIR XDG_RUNTIME_DIR
  cd /
  set -- env HOME="$home" USER="$user" LOGNAME="$user" ASTRO_INSTALL_VIA_SUDO=1 bash -c "$code" install.sh "$@"
  if have runuser; then exec runuser -u "$user" -- "$@" </dev/null; fi
  exec sudo -u "$user" -- "$@" </dev/null
}

run() {
  set -euo pipefail
  checkout=$1
  shift
  local action=install_astro data_home
  version=""
  while [ $# -gt 0 ]; do
    case $1 in
      --version)
        [ $# -ge 2 ] || fail "--version needs a release" "for example: --version 0.1.0" 2
        version=${2#v}
        shift
        ;;
      --version=*) version=${1#--version=} version=${version#v} ;;
      --uninstall) action=uninstall_astro ;;
      -h | --help) usage && return 0 ;;
      *) fail "unknown option '$1'" "install.sh --help lists the options" 2 ;;
    esac
    shift
  done
  # An explicit release is downloaded, even from inside a checkout.
  if [ -n "$version" ]; then checkout=""; fi

  [ -n "${HOME:-}" ] || fail "HOME is not set, so there is no place to install to" "HOME=/your/home, then run this again"
  HOME=${HOME%/}
  [ -d "$HOME/" ] || fail "the home folder $HOME does not exist" "create it, or set HOME to your home folder"
  data_home=${XDG_DATA_HOME:-}
  case $data_home in /*) ;; *) data_home=$HOME/.local/share ;; esac
  bin_dir=$HOME/.local/bin
  launcher=$bin_dir/astro
  own_dir=$data_home/astro/cli # ours alone: the downloaded wheel, the private environment, the set-aside previous one
  path_of_user=$PATH
  PATH=$PATH:$bin_dir # uv and pipx often live there, and sudo's PATH lacks it
  # The same place for uv whatever its settings, so that what we install is what we later find.
  export UV_TOOL_DIR=${UV_TOOL_DIR:-$data_home/uv/tools} UV_TOOL_BIN_DIR=$bin_dir PIPX_BIN_DIR=$bin_dir
  unset PYTHONHOME PYTHONPATH
  $action
}

# ---- what is there -------------------------------------------------------------------------------

# environment_of BACKEND: the folder in which that tool keeps (or would keep) astro.
environment_of() {
  local venvs=""
  case $1 in
    uv) say "$UV_TOOL_DIR/astro-cli" ;;
    pipx)
      if have pipx; then venvs=$(pipx environment --value PIPX_LOCAL_VENVS 2>/dev/null) || venvs=""; fi
      say "${venvs:-${PIPX_HOME:-$HOME/.local/pipx}/venvs}/astro-cli"
      ;;
    venv) say "$own_dir/venv" ;;
  esac
}

# Where ~/.local/bin/astro leads, if it is one that this script (or uv, or pipx) made.
our_link() {
  local target
  target=$(readlink "$launcher" 2>/dev/null) || return 0
  case $target in
    */astro-cli/bin/astro | "$own_dir/venv/bin/astro") say "$target" ;;
  esac
}

installed_version() {
  local info
  for info in "$1"/lib/python*/site-packages/astro_cli-*.dist-info; do
    [ -d "$info" ] || continue
    info=${info##*/astro_cli-}
    say "${info%.dist-info}"
    return 0
  done
}

find_backend() {
  if have uv && uv tool dir >/dev/null 2>&1; then
    say uv
  elif have pipx && pipx --version >/dev/null 2>&1; then
    say pipx
  else
    say venv
  fi
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if have "$name" && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  fail "Python 3.10 or newer was not found" "install Python, or uv, which brings its own: https://docs.astral.sh/uv/"
}

check_venv_module() {
  local package
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return 0
  if have apt-get; then
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    fail "this Python cannot make virtual environments: ensurepip is missing" "sudo apt-get install $package"
  fi
  fail "this Python cannot make virtual environments: ensurepip is missing" "install Python's venv package, or uv"
}

check_writable() {
  local dir=$1
  while [ ! -e "$dir" ] && [ "$dir" != / ]; do dir=$(dirname "$dir"); done
  if [ ! -d "$dir" ] || [ ! -w "$dir" ]; then
    fail "cannot write to $1" "make $dir writable for $(id -un 2>/dev/null || id -u), or set HOME to another folder"
  fi
}

# ---- download ------------------------------------------------------------------------------------

# HTTPS only; plain HTTP never leaves this machine.
check_url() {
  local loopback='^http://(localhost|127\.[0-9]+\.[0-9]+\.[0-9]+|\[::1\])(:[0-9]+)?(/|$)'
  case $1 in https://?*) return 0 ;; esac
  [[ $1 =~ $loopback ]] || fail "refusing to download from $1" "use an https:// address"
}

# fetch URL FILE: false when it cannot be had; the reason is then in $work/log.
fetch() {
  local url=$1 protocols='=https' hops=0
  check_url "$url"
  if have curl; then
    case $url in http:*) protocols='=http,https' ;; esac
    curl -fsSL --proto "$protocols" --proto-redir "$protocols" --connect-timeout 20 --retry 2 \
      -o "$2" "$url" 2>"$work/log"
    return $?
  fi
  have wget || fail "neither curl nor wget was found" "install curl, then run this again"
  # wget would follow a redirect to plain HTTP, so each step is checked here.
  until wget -nv -S --max-redirect=0 --timeout=20 --tries=3 -O "$2" "$url" 2>"$work/log"; do
    url=$(sed -n 's/^ *[Ll]ocation: *\([^ ]*\).*/\1/p' "$work/log" | tail -n 1)
    hops=$((hops + 1))
    if [ -z "$url" ] || [ $hops -gt 5 ]; then return 1; fi
    check_url "$url"
  done
}

# fetch_or_fail URL FILE
fetch_or_fail() {
  fetch "$1" "$2" && return 0
  tail -n 1 "$work/log" >&2
  fail "cannot download $1" "check the network, the proxy (HTTPS_PROXY), the certificates (CURL_CA_BUNDLE) and ASTRO_INSTALL_URL"
}

sha256_of() {
  if have sha256sum; then
    sha256sum "$1"
  elif have shasum; then
    shasum -a 256 "$1"
  else
    fail "neither sha256sum nor shasum was found" "install coreutils, then run this again"
  fi | cut -d ' ' -f 1
}

check_version() {
  case $1 in
    [0-9]*) case $1 in *[!A-Za-z0-9.+!]*) ;; *) return 0 ;; esac ;;
  esac
  fail "'$1' is not a release" "for example: --version 0.1.0" "${2:-2}"
}

# Leaves the verified wheel in $work and its path in $wheel.
download_wheel() {
  local url=${ASTRO_INSTALL_URL:-}
  local release_url="" # scripts/build-release writes the address in here
  local sums=$work/SHA256SUMS name expected actual versions
  url=${url:-$release_url}
  url=${url%/}
  [ -n "$url" ] || fail "this copy of install.sh does not know where the releases are" \
    "set ASTRO_INSTALL_URL, or run install.sh from a checkout"
  check_url "$url"
  if [ -z "$version" ]; then
    fetch_or_fail "$url/VERSION" "$work/VERSION"
    version=$(head -n 1 "$work/VERSION")
    check_version "$version" 1
  else
    check_version "$version"
    # GitHub keeps each release in a folder of its own; anywhere else one folder holds them all.
    case $url in
      */releases/latest/download) url=${url%/latest/download}/download/v$version ;;
    esac
  fi
  fetch_or_fail "$url/SHA256SUMS" "$sums"
  name=astro_cli-$version-py3-none-any.whl
  expected=$(awk -v name="$name" '$2 == name || $2 == "*" name { print $1; exit }' "$sums")
  if [ -z "$expected" ]; then
    versions=$(sed -n 's/.*astro_cli-\(.*\)-py3-none-any\.whl$/\1/p' "$sums" | tr '\n' ' ')
    fail "there is no release $version at $url" "available: ${versions:-none}"
  fi
  say "downloading astro $version from $url"
  wheel=$work/$name
  fetch_or_fail "$url/$name" "$wheel"
  actual=$(sha256_of "$wheel")
  [ "$actual" = "$expected" ] || fail "the SHA-256 of $name is $actual, not the published $expected" \
    "nothing was installed; try again, and report it if it stays"
}

# ---- install -------------------------------------------------------------------------------------

install_astro() {
  local python="" source other old_version new_version
  work="" wheel="" changing="" previous="" new_wheel="" made_dirs=""
  backend=$(find_backend)
  environment=$(environment_of "$backend")
  old_link=$(our_link)
  if [ -z "$old_link" ] && { [ -e "$launcher" ] || [ -L "$launcher" ]; }; then
    fail "$launcher exists and is not from this installer" "move it away, then run this again"
  fi
  check_writable "$bin_dir"
  check_writable "$own_dir"
  check_writable "$(dirname "$environment")"
  if [ "$backend" != uv ]; then python=$(find_python); fi
  if [ "$backend" = venv ]; then check_venv_module "$python"; fi

  work=$(mktemp -d "${TMPDIR:-/tmp}/astro-install.XXXXXX") ||
    fail "cannot make a temporary folder" "set TMPDIR to a writable folder"
  trap clean_up EXIT
  trap 'exit 129' HUP
  trap 'say "interrupted" >&2; exit 130' INT
  trap 'exit 143' TERM
  if [ -z "$checkout" ]; then download_wheel; fi

  old_version=$(installed_version "${old_link%/bin/astro}")
  rm -rf "$own_dir/previous" # of a run that was killed
  if [ -e "$environment" ]; then previous=$own_dir/previous; fi
  changing=yes # from here on clean_up puts everything back unless we get to the end
  { make_dir "$bin_dir" && make_dir "$own_dir" && keep_wheel && set_previous_aside; } ||
    fail "cannot write to $own_dir" "look for a full disk or files of another user"
  source=${checkout:-$own_dir/${wheel##*/}}
  say "installing with $backend"
  if ! "install_with_$backend" "$source" "$python" >"$work/log" 2>&1; then
    tail -n 15 "$work/log" >&2
    fail "$backend could not install astro" "the lines above say why; a package index that cannot be reached needs HTTPS_PROXY or SSL_CERT_FILE"
  fi
  if ! "$launcher" --help >"$work/log" 2>&1 </dev/null; then
    tail -n 15 "$work/log" >&2
    fail "the installed astro does not start" "the lines above say why"
  fi
  changing=""

  new_version=$(installed_version "$environment")
  say "astro $new_version is installed${old_version:+ (before: $old_version)}"
  say "  command      $launcher"
  say "  environment  $environment"
  for other in "$own_dir"/astro_cli-*.whl; do
    if [ "$other" != "$source" ]; then rm -f "$other"; fi
  done
  for other in uv pipx venv; do
    if [ "$other" != "$backend" ]; then remove_environment "$(environment_of "$other")"; fi
  done
  rmdir "$own_dir" "${own_dir%/cli}" 2>/dev/null || true # empty when a checkout was installed by uv or pipx
  say_path
}

# uv and pipx remember where a tool came from and go back there to upgrade or rebuild it, so the wheel stays.
keep_wheel() {
  if [ -z "$wheel" ]; then return 0; fi
  local kept=$own_dir/${wheel##*/}
  if [ ! -e "$kept" ]; then new_wheel=$kept; fi
  cp "$wheel" "$kept.new" && mv -f "$kept.new" "$kept"
}

set_previous_aside() {
  if [ -n "$previous" ]; then mv "$environment" "$previous"; fi
}

install_with_uv() {
  uv tool install --force --compile-bytecode --reinstall-package astro-cli "$1${ASTRO_EXTRAS:+[$ASTRO_EXTRAS]}"
}

install_with_pipx() {
  pipx install --force --python "$2" "$1${ASTRO_EXTRAS:+[$ASTRO_EXTRAS]}"
}

install_with_venv() {
  "$2" -m venv "$environment" &&
    "$environment/bin/python" -m pip install --disable-pip-version-check --quiet "$1${ASTRO_EXTRAS:+[$ASTRO_EXTRAS]}" &&
    link_launcher "$environment/bin/astro"
}

link_launcher() {
  ln -s "$1" "$bin_dir/.astro.$$" && mv -f "$bin_dir/.astro.$$" "$launcher"
}

# make_dir DIR: like mkdir -p, but remembers what was new.
make_dir() {
  if [ -d "$1" ]; then return 0; fi
  make_dir "$(dirname "$1")"
  mkdir "$1"
  made_dirs=$1$'\n'$made_dirs
}

# Runs at every exit: removes the temporary folder and, after a failure, puts the previous installation back.
clean_up() {
  local dir
  set +e
  trap '' HUP INT TERM
  if [ -n "$changing" ]; then
    rm -rf "$own_dir"/*.new "$bin_dir/.astro.$$"
    # Not when the previous environment is still in its place.
    if [ -z "$previous" ] || [ -e "$previous" ]; then rm -rf "$environment"; fi
    if [ -n "$previous" ] && [ -e "$previous" ]; then mv "$previous" "$environment"; fi
    if [ -n "$old_link" ]; then link_launcher "$old_link"; else rm -f "$launcher"; fi
    if [ -n "$new_wheel" ]; then rm -f "$new_wheel"; fi
    printf '%s' "$made_dirs" | while IFS= read -r dir; do rmdir "$dir" 2>/dev/null; done
    if [ -n "$old_link" ]; then say "the previous installation is unchanged" >&2; fi
  elif [ -n "$previous" ]; then
    rm -rf "$previous"
    rmdir "$own_dir" "${own_dir%/cli}" 2>/dev/null
  fi
  rm -rf "$work"
}

say_path() {
  local found
  found=$(PATH=$path_of_user && command -v astro) || found=""
  if [ -n "$found" ] && [ "$found" != "$launcher" ]; then
    say
    say "Your PATH finds another astro first: $found"
  fi
  case :$path_of_user: in *:"$bin_dir":*) return 0 ;; esac
  say
  if [ -n "${ASTRO_INSTALL_VIA_SUDO:-}" ]; then
    say "If your shell does not find astro, add this line to ~/.bashrc or ~/.zshrc:"
  else
    say "$bin_dir is not on your PATH. Add this line to ~/.bashrc or ~/.zshrc and open a new terminal:"
  fi
  # shellcheck disable=SC2016  # the line is for the user's shell to expand
  say '  export PATH="$HOME/.local/bin:$PATH"'
}

# ---- uninstall -----------------------------------------------------------------------------------

remove_environment() {
  if [ -e "$1" ]; then
    rm -rf "$1"
    say "removed $1"
  fi
}

uninstall_astro() {
  local link backend found=""
  link=$(our_link)
  for backend in uv pipx venv; do
    if [ -e "$(environment_of "$backend")" ]; then found=yes; fi
  done
  if [ -z "$link$found" ]; then
    say "astro is not installed for $(id -un)"
    return 0
  fi
  if [ -n "$link" ]; then
    check_writable "$bin_dir"
    remove_environment "${link%/bin/astro}"
    rm -f "$launcher"
    say "removed $launcher"
  fi
  for backend in uv pipx venv; do remove_environment "$(environment_of "$backend")"; done
  rm -rf "$own_dir"
  rmdir "${own_dir%/cli}" "$bin_dir" 2>/dev/null || true
  say "your projects, settings and sandboxes are untouched"
}

{ main "$@"; }
