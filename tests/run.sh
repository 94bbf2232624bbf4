#!/bin/sh
# tests/run.sh BUILD c|lua|crash|fuzz|NAME...: runs the C tests (BUILD/tests/test_*), the Lua specs (tests/lua/*_spec.lua),
# those that kill and interrupt whole runs (tests/crash/*_spec.lua), the fuzz targets (tests/fuzz/fuzz_*), or those named
# (`ops`, `test_tensor` or `fuzz_image`), each in a process of its own, JOBS at a time (default: one for each core).
# Prints one line for each with the counts that it tells (`count: ...`), the whole output of those that failed, and at
# the end `tests: N passed, N failed`. A crash, a hang and a file without tests count as failures; a test that was skipped
# counts as neither. HDLUA_LONG=1 asks for the long form of those that have one, HDLUA_BRIEF=1 for fewer rounds than
# usual; HDLUA_UNDER is a command to run them under.
build=$1
shift
export HDLUA="$PWD/$build/hdlua"
mkdir -p "$build/tests"

# list WORD: the files that it names, a line each.
list() {
    case $1 in
    c) for program in "$build"/tests/test_*; do
        if [ -x "$program" ]; then echo "$program"; fi
    done ;;
    lua | crash) ls tests/"$1"/*_spec.lua ;;
    fuzz) for target in tests/fuzz/fuzz_*.c; do
        program=$build/fuzz/$(basename "$target" .c)
        if [ -x "$program" ]; then echo "$program"; fi
    done ;;
    fuzz_*) echo "$build/fuzz/$1" ;;
    test_*) echo "$build/tests/$1" ;;
    *) for spec in tests/*/"$1"_spec.lua; do echo "$spec"; done ;;
    esac
}

# run FILE: its tests. cmocka speaks TAP, busted ends with a line of sums.
run() {
    name=$(basename "${1%_spec.lua}")
    log=$build/tests/$name.log
    start=$(date +%s)
    case $1 in
    *_spec.lua) set -- "$HDLUA" tests/run.lua -o plainTerminal "$1" ;;
    */fuzz/*) set -- sh tests/fuzz/run.sh "$1" ;;
    esac
    slow=$HDLUA_LONG$HDLUA_UNDER
    CMOCKA_MESSAGE_OUTPUT=TAP timeout -k 5 "${slow:+3}600" $HDLUA_UNDER "$@" >"$log" 2>&1 </dev/null
    status=$?
    sums=$(sed -n 's|^\([0-9]*\) success[es]* / \([0-9]*\) failures* / \([0-9]*\) errors* / .*|\1 \2 \3|p' "$log" | tail -n 1)
    # shellcheck disable=SC2086
    set -- ${sums:-$(grep -c '^ok ' "$log") $(grep '^not ok ' "$log" | grep -vc '# SKIP') 0}
    good=$1
    bad=$(($2 + $3))
    if [ $bad = 0 ] && { [ $status != 0 ] || [ "$good" = 0 ]; }; then bad=1; fi
    printf '%-24s %4d passed %3d failed %4d s\n' "$name" "$good" "$bad" $(($(date +%s) - start))
    sed -n 's/^count: /    /p' "$log"
    if [ $bad != 0 ]; then
        sed 's/^/    /' "$log"
        echo "    exit status $status"
    fi
}

if [ "$1" = --file ]; then # one of those below: its report in one piece
    report=$(run "$2")
    printf '%s\n' "$report"
    exit
fi

sums=$build/tests/sums
for what; do list "$what"; done |
    xargs -P "${JOBS:-$(nproc)}" -I '{}' sh "$0" "$build" --file '{}' |
    tee "$sums"
awk '/^[^ ]+ +[0-9]+ passed +[0-9]+ failed +[0-9]+ s$/ { passed += $2; failed += $4 }
END { printf "tests: %d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0 }' "$sums"
