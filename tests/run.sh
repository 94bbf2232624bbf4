#!/bin/sh
# tests/run.sh BUILD c|lua|crash|fuzz|NAME...: runs the C tests (BUILD/tests/test_*), the Lua specs (tests/lua/*_spec.lua),
# those that kill and interrupt whole runs (tests/crash/*_spec.lua), the fuzz targets (tests/fuzz/fuzz_*), or those named
# (`ops`, `test_tensor` or `fuzz_image`), each in a process of its own. Prints one line for each with the counts that it
# tells (`count: ...`), the whole output of those that failed, and at the end `tests: N passed, N failed`. A crash, a hang
# and a file without tests count as failures; a test that was skipped counts as neither. HDLUA_LONG=1 asks for the long
# form of those that have one, HDLUA_BRIEF=1 for fewer rounds than usual; HDLUA_UNDER is a command to run them under.
build=$1
shift
export HDLUA="$PWD/$build/hdlua"
mkdir -p "$build/tests"
passed=0
failed=0

# run NAME COMMAND...: the tests of one file. cmocka speaks TAP, busted ends with a line of sums.
run() {
    name=$1
    shift
    log=$build/tests/$name.log
    start=$(date +%s)
    CMOCKA_MESSAGE_OUTPUT=TAP timeout -k 5 "${HDLUA_LONG:+3}600" $HDLUA_UNDER "$@" >"$log" 2>&1 </dev/null
    status=$?
    sums=$(sed -n 's|^\([0-9]*\) success[es]* / \([0-9]*\) failures* / \([0-9]*\) errors* / .*|\1 \2 \3|p' "$log" | tail -n 1)
    # shellcheck disable=SC2086
    set -- ${sums:-$(grep -c '^ok ' "$log") $(grep '^not ok ' "$log" | grep -vc '# SKIP') 0}
    good=$1
    bad=$(($2 + $3))
    if [ $bad = 0 ] && { [ $status != 0 ] || [ "$good" = 0 ]; }; then bad=1; fi
    passed=$((passed + good))
    failed=$((failed + bad))
    printf '%-24s %4d passed %3d failed %4d s\n' "$name" "$good" "$bad" $(($(date +%s) - start))
    sed -n 's/^count: /    /p' "$log"
    if [ $bad != 0 ]; then
        sed 's/^/    /' "$log"
        echo "    exit status $status"
    fi
}

for what; do
    case $what in
    c) for program in "$build"/tests/test_*; do
        if [ -x "$program" ]; then run "$(basename "$program")" "$program"; fi
    done ;;
    lua) for spec in tests/lua/*_spec.lua; do
        run "$(basename "$spec" _spec.lua)" "$HDLUA" tests/run.lua -o plainTerminal "$spec"
    done ;;
    crash) for spec in tests/crash/*_spec.lua; do
        run "$(basename "$spec" _spec.lua)" "$HDLUA" tests/run.lua -o plainTerminal "$spec"
    done ;;
    fuzz) for target in tests/fuzz/fuzz_*.c; do
        program=$build/fuzz/$(basename "$target" .c)
        if [ -x "$program" ]; then run "$(basename "$program")" sh tests/fuzz/run.sh "$program"; fi
    done ;;
    fuzz_*) run "$what" sh tests/fuzz/run.sh "$build/fuzz/$what" ;;
    test_*) run "$what" "$build/tests/$what" ;;
    *) run "$what" "$HDLUA" tests/run.lua -o plainTerminal tests/*/"${what}_spec.lua" ;;
    esac
done
echo "tests: $passed passed, $failed failed"
[ $failed = 0 ]
