// app/options.c: the command line. lua5.4's options keep their meaning and order; ours are long ones before the script.
// Layer: app. Called by: main.c.
#include "app/app.h"

#include "bind/bind.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: hdlua [options] [script [args]]\n"
    "\n"
    "A Lua 5.4 interpreter with tensors and hierarchical diffusion. Without script and options: a prompt.\n"
    "\n"
    "Options of lua:\n"
    "  -e STAT           run the string STAT\n"
    "  -i                enter interactive mode after running the script\n"
    "  -l MOD            require library MOD into global MOD\n"
    "  -l G=MOD          require library MOD into global G\n"
    "  -v                show version information of Lua\n"
    "  -E                ignore environment variables\n"
    "  -W                turn warnings on\n"
    "  --                stop handling options\n"
    "  -                 stop handling options and run stdin\n"
    "\n"
    "Options of hdlua:\n"
    "  --threads N       compute on N threads (1 to 256; default: all cores)\n"
    "  --memory SIZE     keep tensors and Lua's heap below SIZE: bytes, or a number with K, M or G, as in 800M;\n"
    "                    off: no limit (default: 90 % of what is available at the start)\n"
    "  --seed N          seed of the default random generator\n"
    "  --view MODE       where pictures are shown: auto, window, png, term or off\n"
    "  --strict          an undeclared global is an error\n"
    "  --anomaly         the first operation that gives NaN or infinity is an error that names it (slow)\n"
    "  --profile         at the end print to stderr where the time went: by operation, by layer, outside of them\n"
    "  -m TOOL [args]    run a tool of the library, as in `hdlua -m bench`\n"
    "  --doc NAME        print the documentation of NAME, as in `hdlua --doc F.conv2d`\n"
    "  --version         print the versions of hdlua and of what it stands on\n"
    "  --help            print this\n"
    "\n"
    "Exit codes: 0 done, 1 error in the script, 2 wrong usage, 130 interrupted after saving.\n";

void hd_options_help(void) { fputs(HELP, stdout); }

// Nearest name ---------------------------------------------------------------
const char *hd_nearest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int best_distance = (int)(strlen(word) / 2) + 1;
    for (int i = 0; i < n; i++) {
        int d = word[0] && strncmp(names[i], word, strlen(word)) == 0 ? 0 : hd_edit_distance(word, names[i]);
        if (d < best_distance) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}

// Values ---------------------------------------------------------------------
// Each setter returns NULL, or what it had expected.
static const char *set_threads(hd_options *o, const char *value) {
    char *end;
    long n = strtol(value, &end, 10);
    if (end == value || *end || n < 1 || n > 256)
        return "a whole number from 1 to 256";
    o->threads = (int)n;
    return NULL;
}

static const char *set_memory(hd_options *o, const char *value) {
    static const char expected[] = "a size such as 800M or 2G (at least 1M), or off";
    if (strcmp(value, "off") == 0) {
        o->memory = HD_MEMORY_OFF;
        return NULL;
    }
    char *end;
    double n = strtod(value, &end);
    static const char units[] = "KMGT";
    if (end == value)
        return expected;
    if (*end) {
        const char *unit = strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end);
        if (!unit)
            return expected;
        n *= (double)(1ull << (10 * (unit - units + 1)));
        end++;
        end += strcmp(end, "iB") == 0 ? 2 : strcmp(end, "B") == 0 ? 1 : 0;
    }
    if (*end || !(n >= 1 << 20 && n < 9e18))
        return expected;
    o->memory = (size_t)n;
    return NULL;
}

static const char *set_seed(hd_options *o, const char *value) {
    char *end;
    errno = 0;
    o->seed = strtoll(value, &end, 10);
    if (end == value || *end || errno)
        return "a whole number";
    o->has_seed = true;
    return NULL;
}

static const char *set_view(hd_options *o, const char *value) {
    static const char *const modes[] = {"auto", "window", "png", "term", "off"};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(value, modes[i]) == 0) {
            o->view = modes[i];
            return NULL;
        }
    return "auto, window, png, term or off";
}

static const char *set_doc(hd_options *o, const char *value) {
    o->doc = value;
    return NULL;
}

static const char *set_help(hd_options *o, const char *value) {
    (void)value;
    o->help = true;
    return NULL;
}

static const char *set_version(hd_options *o, const char *value) {
    (void)value;
    o->version = true;
    return NULL;
}

static const char *set_strict(hd_options *o, const char *value) {
    (void)value;
    o->strict = true;
    return NULL;
}

static const char *set_anomaly(hd_options *o, const char *value) {
    (void)value;
    o->anomaly = true;
    return NULL;
}

static const char *set_profile(hd_options *o, const char *value) {
    (void)value;
    o->profile = true;
    return NULL;
}

static const struct {
    const char *name;
    bool takes_value;
    const char *(*set)(hd_options *, const char *);
} LONG[] = {
    {"threads", true, set_threads},  {"memory", true, set_memory},    {"seed", true, set_seed},
    {"view", true, set_view},        {"doc", true, set_doc},          {"strict", false, set_strict},
    {"anomaly", false, set_anomaly}, {"profile", false, set_profile}, {"version", false, set_version},
    {"help", false, set_help},
};
enum { NLONG = sizeof LONG / sizeof LONG[0] };

// Complaints -----------------------------------------------------------------
static bool usage(void) {
    fputs("usage: hdlua [options] [script [args]]; `hdlua --help` lists the options\n", stderr);
    return false;
}

static bool needs_argument(const hd_options *o, const char *option) {
    fprintf(stderr, "%s: '%s' needs argument\n", o->program, option);
    return usage();
}

static bool unrecognized(const hd_options *o, const char *option) {
    static const char *const SHORT[] = {"e", "i", "l", "v", "E", "W", "m"};
    const char *names[NLONG + 1];
    for (int i = 0; i < NLONG; i++)
        names[i] = LONG[i].name;
    char word[64];
    size_t dashes = strspn(option, "-"), length = strcspn(option + dashes, "=");
    snprintf(word, sizeof word, "%.*s", length < 63 ? (int)length : 63, option + dashes);
    fprintf(stderr, "%s: unrecognized option '%s'", o->program, option);
    for (size_t i = 0; i < sizeof SHORT / sizeof SHORT[0] && dashes == 2; i++)
        if (strcmp(word, SHORT[i]) == 0) {
            fprintf(stderr, ". did you mean '-%s'?\n", word);
            return usage();
        }
    const char *nearest = hd_nearest(word, names, NLONG);
    if (nearest)
        fprintf(stderr, ". did you mean '--%s'?", nearest);
    fputc('\n', stderr);
    return usage();
}

// Parsing --------------------------------------------------------------------
// A long option at argv[*i]; leaves *i at its last word.
static bool parse_long(hd_options *o, char **argv, int *i) {
    const char *option = argv[*i], *name = option + 2, *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    for (int k = 0; k < NLONG; k++) {
        if (strlen(LONG[k].name) != length || strncmp(LONG[k].name, name, length) != 0)
            continue;
        if (equals && !LONG[k].takes_value)
            break;
        const char *value = equals ? equals + 1 : LONG[k].takes_value ? argv[++*i] : "";
        if (!value)
            return needs_argument(o, option);
        const char *expected = LONG[k].set(o, value);
        if (!expected)
            return true;
        fprintf(stderr, "%s: --%s: bad value: got '%s', expected %s\n", o->program, LONG[k].name, value, expected);
        return usage();
    }
    return unrecognized(o, option);
}

// -e and -l take the rest of their word, or the next word unless that looks like an option.
static bool parse_action(hd_options *o, char **argv, int *i) {
    const char *option = argv[*i], *text = option + 2;
    if (!*text) {
        text = argv[*i + 1];
        if (!text || text[0] == '-')
            return needs_argument(o, option);
        ++*i;
    }
    o->has_code |= option[1] == 'e';
    o->actions[o->action_count++] = (hd_action){option[1], text};
    return true;
}

// One option at argv[*i].
static bool parse_option(hd_options *o, char **argv, int *i) {
    const char *option = argv[*i];
    char letter = option[1];
    if (letter == '-')
        return parse_long(o, argv, i);
    if (letter == 'e' || letter == 'l')
        return parse_action(o, argv, i);
    if (option[2] != '\0')
        return unrecognized(o, option);
    switch (letter) {
    case 'E':
        o->ignore_environment = true;
        return true;
    case 'W':
        o->actions[o->action_count++] = (hd_action){'W', NULL};
        return true;
    case 'i':
        o->interactive = o->show_lua = true;
        return true;
    case 'v':
        o->show_lua = true;
        return true;
    default:
        return unrecognized(o, option);
    }
}

bool hd_options_parse(hd_options *o, int argc, char **argv) {
    *o = (hd_options){.program = argc > 0 && argv[0][0] ? argv[0] : "hdlua"};
    o->actions = calloc((size_t)argc + 1, sizeof *o->actions);
    if (!o->actions) {
        fprintf(stderr, "%s: cannot start: not enough memory\n", o->program);
        return false;
    }
    for (int i = 1; i < argc; i++) {
        bool ends_options = strcmp(argv[i], "--") == 0;
        if (argv[i][0] != '-' || argv[i][1] == '\0' || ends_options) {
            o->script = ends_options ? i + 1 : i;
            break;
        }
        if (strcmp(argv[i], "-m") == 0) {
            if (!argv[i + 1])
                return needs_argument(o, "-m");
            o->script = i + 1;
            o->script_is_tool = true;
            break;
        }
        if (!parse_option(o, argv, &i))
            return false;
    }
    if (o->script >= argc)
        o->script = 0;
    return true;
}
