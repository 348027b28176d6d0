// The methods of Python's strings, dicts and lists that a template may call, and the formatting of
// numbers and texts.
#include "methods.h"
#include "characters.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

// --- arguments -----------------------------------------------------------------------------------

void bind_arguments(Render *r, const Arguments *a, const char *function, const char *names,
                    int required, Value *out)
{
    const char *at[8];
    int count = 0;
    for (const char *name = names; *name; name += strcspn(name, " "), name += *name == ' ') {
        out[count] = (Value){.kind = VALUE_MISSING};
        at[count++] = name;
    }
    if (a->count > count)
        render_fail(r, "%s() takes at most %d arguments (%d given)", function, count, a->count);
    for (int i = 0; i < a->count; i++) out[i] = a->item[i];
    for (int k = 0; k < a->keywords; k++) {
        Value key = a->keyword[k].key;
        int i = 0;
        while (i < count &&
               (strcspn(at[i], " ") != key.bytes || memcmp(at[i], key.text, key.bytes) != 0))
            i++;
        int shown = key.bytes > 60 ? 60 : (int)key.bytes;
        if (i == count)
            render_fail(r, "%s() got an unexpected keyword argument '%.*s'", function, shown,
                        key.text);
        if (out[i].kind != VALUE_MISSING)
            render_fail(r, "%s() got multiple values for argument '%.*s'", function, shown,
                        key.text);
        out[i] = a->keyword[k].value;
    }
    for (int i = 0; i < required; i++)
        if (out[i].kind == VALUE_MISSING)
            render_fail(r, "%s() missing required argument: '%.*s'", function,
                        (int)strcspn(at[i], " "), at[i]);
}

int64_t argument_int(Render *r, const char *function, Value v)
{
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
    if (v.kind != VALUE_INT && v.kind != VALUE_BOOL)
        render_fail(r, "%s(): '%s' object cannot be interpreted as an integer", function,
                    value_type(v));
    return v.integer;
}

static Value argument_string(Render *r, const char *function, Value v)
{
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
    if (v.kind != VALUE_STRING)
        render_fail(r, "%s() argument must be str, not %s", function, value_type(v));
    return v;
}

// --- letters -------------------------------------------------------------------------------------

static void add_upper(Render *r, Text *t, int32_t c, int title)
{
    for (size_t i = 0; c >= 128 && i < sizeof special_cases / sizeof *special_cases; i++) {
        if (special_cases[i].c != c) continue;
        const int32_t *to = title ? special_cases[i].title : special_cases[i].upper;
        for (int k = 0; k < 3 && to[k]; k++) text_add_char(r, t, to[k]);
        return;
    }
    text_add_char(r, t, title ? utf8proc_totitle(c) : utf8proc_toupper(c));
}

static int is_upper(int32_t c)
{
    return c < 128 ? isupper(c) : utf8proc_isupper(c);
}

static int is_lower(int32_t c)
{
    return c < 128 ? islower(c) : utf8proc_islower(c);
}

static int is_cased(int32_t c)
{
    return is_upper(c) || is_lower(c) || (c >= 128 && utf8proc_category(c) == UTF8PROC_CATEGORY_LT);
}

static void add_lower(Render *r, Text *t, int32_t c, const char *at, const char *end,
                      int after_cased)
{
    if (c == 0x130) {
        text_add(r, t, "i\xcc\x87", 3);
    } else if (c == 0x3a3) { // a sigma at the end of a word has its own form
        int before_cased = at < end && is_cased(text_next(&at, end));
        text_add_char(r, t, after_cased && !before_cased ? 0x3c2 : 0x3c3);
    } else {
        text_add_char(r, t, utf8proc_tolower(c));
    }
}

Value string_case(Render *r, Value s, char how)
{
    Text t = {0};
    int after_cased = 0;
    for (const char *at = s.text, *end = at + s.bytes; at < end;) {
        int first = at == s.text;
        int32_t c = text_next(&at, end);
        int up = how == 'u' || (how == 'c' && first) || (how == 't' && !after_cased) ||
                 (how == 's' && is_lower(c));
        if (how == 's' && !is_upper(c) && !is_lower(c))
            text_add_char(r, &t, c);
        else if (up)
            add_upper(r, &t, c, how == 'c' || how == 't');
        else
            add_lower(r, &t, c, at, end, after_cased);
        after_cased = is_cased(c);
    }
    Value result = text_value(&t);
    result.form = s.form;
    return result;
}

static int in_ranges(int32_t c, const CharacterRange *range, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (c >= range[i].first && c <= range[i].last) return 1;
    return 0;
}

static int in_category(int32_t c, const char *what)
{
    utf8proc_category_t k = utf8proc_category(c);
    int alpha = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    int decimal = k == UTF8PROC_CATEGORY_ND;
    int number = decimal || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
    if (strcmp(what, "alpha") == 0) return alpha;
    if (strcmp(what, "alnum") == 0) return alpha || number;
    if (strcmp(what, "decimal") == 0) return decimal;
    if (strcmp(what, "digit") == 0)
        return decimal || in_ranges(c, other_digits, sizeof other_digits / sizeof *other_digits);
    if (strcmp(what, "numeric") == 0)
        return number ||
               in_ranges(c, letter_numerals, sizeof letter_numerals / sizeof *letter_numerals);
    if (strcmp(what, "space") == 0) return is_space(c);
    return c < 128; // "ascii"
}

int string_is(Value s, const char *what)
{
    int cased = 0, after_cased = 0;
    int lower = strcmp(what, "lower") == 0, upper = strcmp(what, "upper") == 0,
        title = strcmp(what, "title") == 0;
    for (const char *at = s.text, *end = at + s.bytes; at < end;) {
        int32_t c = text_next(&at, end);
        int is_title = c >= 128 && utf8proc_category(c) == UTF8PROC_CATEGORY_LT;
        if (lower && (is_upper(c) || is_title)) return 0;
        if (upper && (is_lower(c) || is_title)) return 0;
        if (title && after_cased != !(is_upper(c) || is_title) && is_cased(c)) return 0;
        if (!lower && !upper && !title && !in_category(c, what)) return 0;
        after_cased = is_cased(c);
        cased |= after_cased;
    }
    if (lower || upper || title) return cased;
    return s.bytes != 0 || strcmp(what, "ascii") == 0;
}

// --- cutting and joining -------------------------------------------------------------------------

static Value substring(Value s, size_t start, size_t end)
{
    Value part = value_string(s.text + start, end - start);
    part.form = s.form;
    return part;
}

static int strips(Value chars, int32_t c)
{
    if (chars.kind != VALUE_STRING) return is_space(c);
    for (const char *at = chars.text, *end = at + chars.bytes; at < end;)
        if (text_next(&at, end) == c) return 1;
    return 0;
}

Value string_strip(Render *r, Value s, Value chars, int left, int right)
{
    const char *start = s.text, *end = s.text + s.bytes;
    if (chars.kind != VALUE_MISSING && chars.kind != VALUE_NONE) argument_string(r, "strip", chars);
    while (left && start < end) {
        const char *next = start;
        if (!strips(chars, text_next(&next, end))) break;
        start = next;
    }
    while (right && end > start) {
        const char *last = end - 1;
        while (last > start && (*last & 0xc0) == 0x80) last--;
        const char *at = last;
        if (!strips(chars, text_next(&at, end))) break;
        end = last;
    }
    render_step(r, s.bytes / 16);
    return substring(s, (size_t)(start - s.text), (size_t)(end - s.text));
}

// Where `part` is in s at or after byte `from`; -1: nowhere.
static int64_t find_forward(Value s, Value part, size_t from)
{
    const char *found =
        from <= s.bytes ? memmem(s.text + from, s.bytes - from, part.text, part.bytes) : NULL;
    return found ? found - s.text : -1;
}

// The last place in s that ends at or before byte `until`.
static int64_t find_backward(Value s, Value part, size_t until)
{
    if (part.bytes > until) return -1;
    for (size_t at = until - part.bytes;; at--) {
        if (memcmp(s.text + at, part.text, part.bytes) == 0) return (int64_t)at;
        if (at == 0) return -1;
    }
}

Value string_replace(Render *r, Value s, Value old, Value new, int64_t count)
{
    Text t = {0};
    size_t at = 0;
    render_step(r, s.bytes / 16);
    for (; count != 0; count--) {
        if (!old.bytes) { // before every character, and at the end
            text_add(r, &t, new.text, new.bytes);
            if (at >= s.bytes) break;
            size_t n = text_offset(s.text + at, s.bytes - at, 1);
            text_add(r, &t, s.text + at, n);
            at += n;
            continue;
        }
        int64_t found = find_forward(s, old, at);
        if (found < 0) break;
        text_add(r, &t, s.text + at, (size_t)found - at);
        text_add(r, &t, new.text, new.bytes);
        at = (size_t)found + old.bytes;
        render_step(r, 1);
    }
    if (at == 0 && !t.bytes) return s;
    text_add(r, &t, s.text + at, s.bytes - at);
    Value result = text_value(&t);
    result.form = s.form;
    return result;
}

// The line break at `at`: its length, 0 for none.
static size_t line_break(const char *at, const char *end)
{
    const char *next = at;
    int32_t c = text_next(&next, end);
    if (c == '\r' && next < end && *next == '\n') return 2;
    if ((c >= '\n' && c <= '\r') || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
        c == 0x2029)
        return (size_t)(next - at);
    return 0;
}

Value string_lines(Render *r, Value s, int keep)
{
    Value list = value_list(r, FORM_LIST);
    size_t start = 0;
    render_step(r, s.bytes / 16);
    for (size_t at = 0; at < s.bytes;) {
        size_t n = line_break(s.text + at, s.text + s.bytes);
        if (n) {
            list_add(r, list, substring(s, start, at + (keep ? n : 0)));
            start = at + n;
        }
        at += n ? n : 1;
    }
    if (start < s.bytes) list_add(r, list, substring(s, start, s.bytes));
    return list;
}

static Value split_spaces(Render *r, Value s, int64_t most)
{
    Value list = value_list(r, FORM_LIST), none = value_none();
    Value rest = string_strip(r, s, none, 1, 0);
    while (rest.bytes) {
        size_t n = 0;
        if (most-- == 0) {
            list_add(r, list, rest);
            break;
        }
        for (const char *at = rest.text, *end = at + rest.bytes; at < end;) {
            if (is_space(text_next(&at, end))) break;
            n = (size_t)(at - rest.text);
        }
        list_add(r, list, substring(rest, 0, n));
        rest = string_strip(r, substring(rest, n, rest.bytes), none, 1, 0);
    }
    return list;
}

static void reverse(Value list)
{
    List *l = list.list;
    for (uint32_t i = 0; i < l->count / 2; i++) {
        Value v = l->item[i];
        l->item[i] = l->item[l->count - 1 - i];
        l->item[l->count - 1 - i] = v;
    }
}

static Value split_spaces_right(Render *r, Value s, int64_t most)
{
    Value list = value_list(r, FORM_LIST), none = value_none();
    Value rest = string_strip(r, s, none, 0, 1);
    while (rest.bytes) {
        if (most-- == 0) {
            list_add(r, list, rest);
            break;
        }
        size_t start = rest.bytes;
        while (start > 0) {
            size_t last = start - 1;
            while (last > 0 && (rest.text[last] & 0xc0) == 0x80) last--;
            const char *at = rest.text + last;
            if (is_space(text_next(&at, rest.text + rest.bytes))) break;
            start = last;
        }
        list_add(r, list, substring(rest, start, rest.bytes));
        rest = string_strip(r, substring(rest, 0, start), none, 0, 1);
    }
    reverse(list);
    return list;
}

static Value split(Render *r, Value s, const Arguments *a, int right)
{
    Value v[2];
    bind_arguments(r, a, right ? "rsplit" : "split", "sep maxsplit", 0, v);
    int64_t most = v[1].kind == VALUE_MISSING ? -1 : argument_int(r, "split", v[1]);
    if (v[0].kind == VALUE_MISSING || v[0].kind == VALUE_NONE)
        return right ? split_spaces_right(r, s, most) : split_spaces(r, s, most);
    Value sep = argument_string(r, "split", v[0]), list = value_list(r, FORM_LIST);
    if (!sep.bytes) render_fail(r, "empty separator");
    size_t start = 0, end = s.bytes;
    render_step(r, s.bytes / 16);
    for (; most != 0; most--) {
        int64_t found = right ? find_backward(s, sep, end) : find_forward(s, sep, start);
        if (found < 0) break;
        if (right)
            list_add(r, list, substring(s, (size_t)found + sep.bytes, end)), end = (size_t)found;
        else
            list_add(r, list, substring(s, start, (size_t)found)),
                start = (size_t)found + sep.bytes;
    }
    list_add(r, list, substring(s, start, end));
    if (right) reverse(list);
    return list;
}

Value string_pad(Render *r, Value s, int64_t width, int32_t fill, char align)
{
    int64_t missing = width - (int64_t)text_length(s.text, s.bytes);
    if (missing <= 0) return s;
    if (missing > (int64_t)RENDER_MAX_MEMORY) render_fail(r, "a width of %lld", (long long)width);
    // Python's center puts the odd one left when the width is odd.
    int64_t left = align == '>'   ? missing
                   : align == '<' ? 0
                   : align == '^' ? missing / 2
                                  : missing / 2 + (missing & width & 1);
    Text t = {0};
    for (int64_t i = 0; i < left; i++) text_add_char(r, &t, fill);
    text_add(r, &t, s.text, s.bytes);
    for (int64_t i = left; i < missing; i++) text_add_char(r, &t, fill);
    render_step(r, (size_t)missing);
    return text_value(&t);
}

// --- numbers as text -----------------------------------------------------------------------------

// [[fill]align][sign][#][0][width][grouping][.precision][type]
typedef struct {
    int32_t fill;
    char align, sign, type;
    int alternate, zero, grouping, precision;
    int64_t width;
} Spec;

static int64_t read_number(Render *r, const char **at, const char *end)
{
    int64_t n = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at) {
        n = n * 10 + (**at - '0');
        if (n > 1000000) render_fail(r, "a width or precision over a million");
    }
    return n;
}

// The digits of a number in the form `type`, without sign.
static void add_digits(Render *r, Text *t, Value v, const Spec *s)
{
    if (v.kind != VALUE_FLOAT && !strchr("eEfFgG%", s->type ? s->type : 'd')) {
        uint64_t n = v.integer < 0 ? -(uint64_t)v.integer : (uint64_t)v.integer;
        char digits[72];
        int i = sizeof digits;
        unsigned base = s->type == 'b' ? 2 : s->type == 'o' ? 8 : (s->type | 32) == 'x' ? 16 : 10;
        const char *set = s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
        do digits[--i] = set[n % base];
        while (n /= base);
        if (s->alternate && base != 10) digits[--i] = s->type, digits[--i] = '0';
        for (int d = (int)sizeof digits - i; d < s->precision; d++) text_add(r, t, "0", 1);
        text_add(r, t, digits + i, sizeof digits - (size_t)i);
        return;
    }
    double d = fabs(value_number(v));
    if (isnan(d) || isinf(d)) {
        int capital = s->type && isupper(s->type);
        text_print(r, t, "%s", isnan(d) ? capital ? "NAN" : "nan" : capital ? "INF" : "inf");
        return;
    }
    char type = s->type == '%' ? 'f' : s->type ? s->type : s->precision >= 0 ? 'g' : 'r';
    if (type == 'r') {
        text_add_float(r, t, d);
        return;
    }
    char format[16], copy[512];
    snprintf(format, sizeof format, "%%%s.*%c", s->alternate ? "#" : "", type);
    int precision = s->precision < 0 ? 6 : s->precision;
    int n = snprintf(copy, sizeof copy, format, precision, s->type == '%' ? 100 * d : d);
    if (n < 0 || n >= (int)sizeof copy) render_fail(r, "a number of more than 511 digits");
    size_t bytes = (size_t)n;
    text_add(r, t, copy, bytes);
    if (!s->type && !memchr(copy, '.', bytes) && !memchr(copy, 'e', bytes)) text_add(r, t, ".0", 2);
    if (s->type == '%') text_add(r, t, "%", 1);
}

// A comma or underscore between every three digits before the point.
static void add_grouped(Render *r, Text *t, const Text *digits, char separator)
{
    size_t whole = 0;
    while (whole < digits->bytes && digits->data[whole] >= '0' && digits->data[whole] <= '9')
        whole++;
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0) text_add(r, t, &separator, 1);
        text_add(r, t, digits->data + i, 1);
    }
    text_add(r, t, digits->data + whole, digits->bytes - whole);
}

static Value format_number(Render *r, Value v, const Spec *s)
{
    Text digits = {0}, t = {0};
    int negative =
        v.kind == VALUE_FLOAT ? signbit(v.number) != 0 && !isnan(v.number) : v.integer < 0;
    add_digits(r, &digits, v, s);
    if (negative)
        text_add(r, &t, "-", 1);
    else if (s->sign == '+' || s->sign == ' ')
        text_add(r, &t, &s->sign, 1);
    Text body = {0};
    if (s->grouping)
        add_grouped(r, &body, &digits, (char)s->grouping);
    else
        body = digits;
    if (s->zero || s->align == '=') { // between sign and digits
        int32_t fill = s->align == '=' && s->fill ? s->fill : '0';
        Value padded = string_pad(r, text_value(&body), s->width - (int64_t)t.bytes, fill, '>');
        text_add(r, &t, padded.text, padded.bytes);
        return text_value(&t);
    }
    text_add(r, &t, body.data, body.bytes);
    return string_pad(r, text_value(&t), s->width, s->fill ? s->fill : ' ',
                      s->align ? s->align : '>');
}

// format(v, spec) of Python.
static Value format_value(Render *r, Value v, const char *at, const char *end)
{
    Spec s = {.precision = -1};
    const char *next = at;
    if (at < end) text_next(&next, end);
    if (next < end && strchr("<>=^", *next) && *next)
        s.fill = text_next(&at, end), s.align = *at++;
    else if (at < end && *at && strchr("<>=^", *at))
        s.align = *at++;
    if (at < end && (*at == '+' || *at == '-' || *at == ' ')) s.sign = *at++;
    if (at < end && *at == '#') s.alternate = 1, at++;
    if (at < end && *at == '0') s.zero = !s.align, at++;
    s.width = read_number(r, &at, end);
    if (at < end && (*at == ',' || *at == '_')) s.grouping = *at++;
    if (at < end && *at == '.') at++, s.precision = (int)read_number(r, &at, end);
    if (at < end) s.type = *at++;
    int number = value_is_number(v);
    if (v.kind == VALUE_BOOL && !s.type) number = 0;
    const char *types = v.kind == VALUE_FLOAT ? "eEfFgG%" : number ? "bdoxXeEfFgG%" : "s";
    if (at < end || (s.type && !strchr(types, s.type)))
        render_fail(r, "Invalid format specifier for object of type '%s'", value_type(v));
    if (number) return format_number(r, v, &s);
    Value text = value_text(r, v);
    if (s.precision >= 0)
        text.bytes = (uint32_t)text_offset(text.text, text.bytes, (size_t)s.precision);
    return string_pad(r, text, s.width, s.fill ? s.fill : ' ',
                      s.align && s.align != '=' ? s.align : '<');
}

// --- "%s" % v ------------------------------------------------------------------------------------

typedef struct {
    Value values;
    uint32_t used;
} Operands;

static Value next_operand(Render *r, Operands *o)
{
    Value v = o->values;
    int tuple = v.kind == VALUE_LIST && v.form == FORM_TUPLE;
    if (o->used >= (tuple ? v.list->count : 1))
        render_fail(r, "not enough arguments for format string");
    o->used++;
    return tuple ? v.list->item[o->used - 1] : v;
}

static Value format_operand(Render *r, Value v, Spec *s)
{
    Text t = {0};
    if (s->type == 's' || s->type == 'r' || s->type == 'a') {
        if (s->type == 's')
            text_add_value(r, &t, v);
        else
            text_add_repr(r, &t, v);
        Value text = text_value(&t);
        if (s->precision >= 0)
            text.bytes = (uint32_t)text_offset(text.text, text.bytes, (size_t)s->precision);
        return string_pad(r, text, s->width, ' ', s->align ? s->align : '>');
    }
    if (s->type == 'c') {
        if (v.kind == VALUE_INT && v.integer >= 0 && v.integer < 0xd800)
            text_add_char(r, &t, (int32_t)v.integer);
        else if (v.kind == VALUE_STRING && text_length(v.text, v.bytes) == 1)
            text_add_value(r, &t, v);
        else
            render_fail(r, "%%c requires int or char");
        return string_pad(r, text_value(&t), s->width, ' ', s->align ? s->align : '>');
    }
    if (!value_is_number(v))
        render_fail(r, "%%%c format: a real number is required, not %s", s->type, value_type(v));
    int whole = strchr("diuxXo", s->type) != NULL;
    if (whole && v.kind == VALUE_FLOAT) {
        if (!(fabs(v.number) < 9e18)) render_fail(r, "an integer beyond 64 bits");
        v = value_int((int64_t)v.number);
    }
    if (v.kind == VALUE_BOOL) v = value_int(v.integer);
    if (strchr("iu", s->type)) s->type = 'd';
    return format_number(r, v, s);
}

Value format_percent(Render *r, Value format, Value values)
{
    Text t = {0};
    Operands operands = {values, 0};
    const char *at = format.text, *end = at + format.bytes;
    while (at < end) {
        const char *percent = memchr(at, '%', (size_t)(end - at));
        if (!percent) percent = end;
        text_add(r, &t, at, (size_t)(percent - at));
        at = percent;
        if (at++ >= end) break;
        if (at < end && *at == '%') {
            text_add(r, &t, at++, 1);
            continue;
        }
        Spec s = {.precision = -1};
        int named = at < end && *at == '(';
        Value v = value_none();
        if (named) {
            const char *close = memchr(at, ')', (size_t)(end - at));
            if (!close) render_fail(r, "incomplete format key");
            if (values.kind != VALUE_DICT) render_fail(r, "format requires a mapping");
            const Value *member =
                dict_get(r, values.dict, value_string(at + 1, (size_t)(close - at - 1)));
            if (!member) render_fail(r, "KeyError: '%.*s'", (int)(close - at - 1), at + 1);
            v = *member;
            at = close + 1;
        }
        for (; at < end && *at && strchr("-+ #0", *at); at++) {
            if (*at == '-') s.align = '<';
            if (*at == '+' || (*at == ' ' && !s.sign)) s.sign = *at;
            if (*at == '#') s.alternate = 1;
            if (*at == '0') s.zero = 1;
        }
        if (at < end && *at == '*') {
            at++;
            s.width = argument_int(r, "%", next_operand(r, &operands));
            if (s.width < 0) s.align = '<', s.width = -s.width;
        } else {
            s.width = read_number(r, &at, end);
        }
        if (at < end && *at == '.') {
            at++;
            if (at < end && *at == '*')
                at++, s.precision = (int)argument_int(r, "%", next_operand(r, &operands));
            else
                s.precision = (int)read_number(r, &at, end);
        }
        while (at < end && *at && strchr("hlL", *at)) at++;
        if (at >= end) render_fail(r, "incomplete format");
        s.type = *at++;
        if (!s.type || !strchr("sradiuxXoeEfFgGc", s.type))
            render_fail(r, "unsupported format character '%c'", s.type);
        if (s.align == '<') s.zero = 0;
        if (!named) v = next_operand(r, &operands);
        Value text = format_operand(r, v, &s);
        text_add(r, &t, text.text, text.bytes);
    }
    int tuple = values.kind == VALUE_LIST && values.form == FORM_TUPLE;
    int mapping = values.kind == VALUE_DICT || (values.kind == VALUE_LIST && !tuple); // to Python
    if (!mapping && operands.used < (tuple ? values.list->count : 1))
        render_fail(r, "not all arguments converted during string formatting");
    Value result = text_value(&t);
    result.form = format.form;
    return result;
}

// --- "{}".format(v) ------------------------------------------------------------------------------

// The value of a field: its number or name, then .attributes and [items].
static Value format_field(Render *r, const char *at, const char *end, const Arguments *a, int *next)
{
    const char *name = at;
    while (at < end && *at != '.' && *at != '[') at++;
    Value v = {.kind = VALUE_MISSING};
    if (at == name || (*name >= '0' && *name <= '9')) {
        const char *digits = name;
        int64_t i = at == name ? (*next)++ : read_number(r, &digits, at);
        if (i >= a->count)
            render_fail(r, "Replacement index %lld out of range for positional args tuple",
                        (long long)i);
        v = a->item[i];
    }
    for (int k = 0; k < a->keywords && v.kind == VALUE_MISSING; k++)
        if (a->keyword[k].key.bytes == (size_t)(at - name) &&
            memcmp(a->keyword[k].key.text, name, (size_t)(at - name)) == 0)
            v = a->keyword[k].value;
    if (v.kind == VALUE_MISSING) render_fail(r, "KeyError: '%.*s'", (int)(at - name), name);
    while (at < end) {
        int item = *at++ == '[';
        const char *part = at;
        while (at < end && *at != (item ? ']' : '.') && (item || *at != '[')) at++;
        Value key = value_string(part, (size_t)(at - part));
        const char *digits = part;
        if (item && part < at && *part >= '0' && *part <= '9')
            key = value_int(read_number(r, &digits, at));
        v = item ? value_item(r, v, key) : value_attribute(r, v, key);
        at += item && at < end;
    }
    return v;
}

static Value string_format(Render *r, Value self, const Arguments *a)
{
    Text t = {0};
    int next = 0;
    for (const char *at = self.text, *end = at + self.bytes; at < end;) {
        char c = *at++;
        if ((c == '{' || c == '}') && at < end && *at == c) {
            text_add(r, &t, at++, 1);
        } else if (c == '{') {
            const char *close = memchr(at, '}', (size_t)(end - at));
            if (!close) render_fail(r, "expected '}' before end of string");
            const char *spec = memchr(at, ':', (size_t)(close - at)),
                       *name_end = spec ? spec : close;
            if (memchr(at, '{', (size_t)(close - at)))
                render_fail(r, "fields within fields are not supported");
            char conversion = 0;
            if (name_end - at >= 2 && name_end[-2] == '!') conversion = name_end[-1], name_end -= 2;
            Value v = format_field(r, at, name_end, a, &next);
            if (conversion) {
                Text repr = {0};
                if (conversion == 'r')
                    text_add_repr(r, &repr, v);
                else
                    text_add_value(r, &repr, v);
                v = text_value(&repr);
            }
            v = format_value(r, v, spec ? spec + 1 : close, close);
            text_add(r, &t, v.text, v.bytes);
            at = close + 1;
        } else if (c == '}') {
            render_fail(r, "Single '}' encountered in format string");
        } else {
            text_add(r, &t, &c, 1);
        }
    }
    Value result = text_value(&t);
    result.form = self.form;
    return result;
}

// --- methods of strings --------------------------------------------------------------------------

#define NO_ARGUMENTS(name) bind_arguments(r, a, name, "", 0, NULL)

static Value method_upper(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("upper");
    return string_case(r, self, 'u');
}
static Value method_lower(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("lower");
    return string_case(r, self, 'l');
}
static Value method_title(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("title");
    return string_case(r, self, 't');
}
static Value method_capitalize(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("capitalize");
    return string_case(r, self, 'c');
}
static Value method_swapcase(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("swapcase");
    return string_case(r, self, 's');
}

static Value strip_with(Render *r, Value self, const Arguments *a, int left, int right)
{
    Value chars;
    bind_arguments(r, a, "strip", "chars", 0, &chars);
    return string_strip(r, self, chars, left, right);
}
static Value method_strip(Render *r, Value self, const Arguments *a)
{
    return strip_with(r, self, a, 1, 1);
}
static Value method_lstrip(Render *r, Value self, const Arguments *a)
{
    return strip_with(r, self, a, 1, 0);
}
static Value method_rstrip(Render *r, Value self, const Arguments *a)
{
    return strip_with(r, self, a, 0, 1);
}

static Value method_split(Render *r, Value self, const Arguments *a)
{
    return split(r, self, a, 0);
}
static Value method_rsplit(Render *r, Value self, const Arguments *a)
{
    return split(r, self, a, 1);
}

static Value method_splitlines(Render *r, Value self, const Arguments *a)
{
    Value keep;
    bind_arguments(r, a, "splitlines", "keepends", 0, &keep);
    return string_lines(r, self, value_true(keep));
}

// A part of the string by bytes, as start and end in characters (None, missing) give it.
static Value bounded(Render *r, Value self, Value start, Value end, size_t *offset)
{
    Value one = {.kind = VALUE_MISSING}, part = value_slice(r, self, start, end, one);
    *offset = (size_t)(part.text - self.text);
    return part;
}

// find, index, rfind, rindex, count.
static int64_t find_part(Render *r, Value self, const Arguments *a, const char *name, int right)
{
    Value v[3];
    size_t offset;
    bind_arguments(r, a, name, "sub start end", 1, v);
    Value sub = argument_string(r, name, v[0]), part = bounded(r, self, v[1], v[2], &offset);
    render_step(r, part.bytes / 16);
    int64_t found = right ? find_backward(part, sub, part.bytes) : find_forward(part, sub, 0);
    if (found < 0) return -1;
    return (int64_t)text_length(self.text, offset + (size_t)found);
}
static Value method_find(Render *r, Value self, const Arguments *a)
{
    return value_int(find_part(r, self, a, "find", 0));
}
static Value method_rfind(Render *r, Value self, const Arguments *a)
{
    return value_int(find_part(r, self, a, "rfind", 1));
}
static Value method_index(Render *r, Value self, const Arguments *a)
{
    int64_t found = find_part(r, self, a, "index", 0);
    if (found < 0) render_fail(r, "substring not found");
    return value_int(found);
}
static Value method_rindex(Render *r, Value self, const Arguments *a)
{
    int64_t found = find_part(r, self, a, "rindex", 1);
    if (found < 0) render_fail(r, "substring not found");
    return value_int(found);
}

static Value method_count(Render *r, Value self, const Arguments *a)
{
    Value v[3];
    size_t offset;
    bind_arguments(r, a, "count", "sub start end", 1, v);
    Value sub = argument_string(r, "count", v[0]), part = bounded(r, self, v[1], v[2], &offset);
    render_step(r, part.bytes / 16);
    if (!sub.bytes) return value_int((int64_t)text_length(part.text, part.bytes) + 1);
    int64_t n = 0, at = 0;
    for (; (at = find_forward(part, sub, (size_t)at)) >= 0; at += sub.bytes) n++;
    return value_int(n);
}

// startswith and endswith: one text, or a tuple of them.
static Value has_end(Render *r, Value self, const Arguments *a, const char *name, int right)
{
    Value v[3];
    size_t offset;
    bind_arguments(r, a, name, "prefix start end", 1, v);
    Value part = bounded(r, self, v[1], v[2], &offset);
    int tuple = v[0].kind == VALUE_LIST && v[0].form == FORM_TUPLE;
    for (uint32_t i = 0; i < (tuple ? v[0].list->count : 1); i++) {
        Value end = argument_string(r, name, tuple ? v[0].list->item[i] : v[0]);
        if (end.bytes <= part.bytes &&
            memcmp(part.text + (right ? part.bytes - end.bytes : 0), end.text, end.bytes) == 0)
            return value_bool(1);
    }
    return value_bool(0);
}
static Value method_startswith(Render *r, Value self, const Arguments *a)
{
    return has_end(r, self, a, "startswith", 0);
}
static Value method_endswith(Render *r, Value self, const Arguments *a)
{
    return has_end(r, self, a, "endswith", 1);
}

static Value method_removeprefix(Render *r, Value self, const Arguments *a)
{
    Value v;
    bind_arguments(r, a, "removeprefix", "prefix", 1, &v);
    v = argument_string(r, "removeprefix", v);
    int there = v.bytes <= self.bytes && memcmp(self.text, v.text, v.bytes) == 0;
    return there ? substring(self, v.bytes, self.bytes) : self;
}
static Value method_removesuffix(Render *r, Value self, const Arguments *a)
{
    Value v;
    bind_arguments(r, a, "removesuffix", "suffix", 1, &v);
    v = argument_string(r, "removesuffix", v);
    int there =
        v.bytes <= self.bytes && memcmp(self.text + self.bytes - v.bytes, v.text, v.bytes) == 0;
    return there ? substring(self, 0, self.bytes - v.bytes) : self;
}

static Value method_replace(Render *r, Value self, const Arguments *a)
{
    Value v[3];
    bind_arguments(r, a, "replace", "old new count", 2, v);
    return string_replace(r, self, argument_string(r, "replace", v[0]),
                          argument_string(r, "replace", v[1]),
                          v[2].kind == VALUE_MISSING ? -1 : argument_int(r, "replace", v[2]));
}

static Value method_join(Render *r, Value self, const Arguments *a)
{
    Value v;
    Text t = {0};
    bind_arguments(r, a, "join", "iterable", 1, &v);
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) {
        if (items->item[i].kind != VALUE_STRING)
            render_fail(r, "sequence item %u: expected str instance, %s found", i,
                        value_type(items->item[i]));
        if (i) text_add(r, &t, self.text, self.bytes);
        text_add_value(r, &t, items->item[i]);
    }
    return text_value(&t);
}

static Value partition(Render *r, Value self, const Arguments *a, int right)
{
    Value sep, list = value_list(r, FORM_TUPLE), empty = value_literal("");
    bind_arguments(r, a, "partition", "sep", 1, &sep);
    sep = argument_string(r, "partition", sep);
    if (!sep.bytes) render_fail(r, "empty separator");
    int64_t found = right ? find_backward(self, sep, self.bytes) : find_forward(self, sep, 0);
    size_t at = (size_t)found;
    list_add(r, list, found >= 0 ? substring(self, 0, at) : right ? empty : self);
    list_add(r, list, found >= 0 ? sep : empty);
    list_add(r, list,
             found >= 0 ? substring(self, at + sep.bytes, self.bytes)
             : right    ? self
                        : empty);
    return list;
}
static Value method_partition(Render *r, Value self, const Arguments *a)
{
    return partition(r, self, a, 0);
}
static Value method_rpartition(Render *r, Value self, const Arguments *a)
{
    return partition(r, self, a, 1);
}

static Value justify(Render *r, Value self, const Arguments *a, const char *name, char align)
{
    Value v[2];
    bind_arguments(r, a, name, "width fillchar", 1, v);
    int32_t fill = ' ';
    if (v[1].kind != VALUE_MISSING) {
        Value s = argument_string(r, name, v[1]);
        if (text_length(s.text, s.bytes) != 1)
            render_fail(r, "The fill character must be exactly one character long");
        const char *at = s.text;
        fill = text_next(&at, s.text + s.bytes);
    }
    return string_pad(r, self, argument_int(r, name, v[0]), fill, align);
}
static Value method_center(Render *r, Value self, const Arguments *a)
{
    return justify(r, self, a, "center", 'c');
}
static Value method_ljust(Render *r, Value self, const Arguments *a)
{
    return justify(r, self, a, "ljust", '<');
}
static Value method_rjust(Render *r, Value self, const Arguments *a)
{
    return justify(r, self, a, "rjust", '>');
}

static Value method_zfill(Render *r, Value self, const Arguments *a)
{
    Value width;
    Text t = {0};
    bind_arguments(r, a, "zfill", "width", 1, &width);
    size_t sign = self.bytes && (*self.text == '-' || *self.text == '+');
    Value digits = string_pad(r, substring(self, sign, self.bytes),
                              argument_int(r, "zfill", width) - (int64_t)sign, '0', '>');
    text_add(r, &t, self.text, sign);
    text_add(r, &t, digits.text, digits.bytes);
    return text_value(&t);
}

static Value method_expandtabs(Render *r, Value self, const Arguments *a)
{
    Value v;
    Text t = {0};
    bind_arguments(r, a, "expandtabs", "tabsize", 0, &v);
    int64_t size = v.kind == VALUE_MISSING ? 8 : argument_int(r, "expandtabs", v), column = 0;
    if (size > 1000000) render_fail(r, "a width or precision over a million");
    for (const char *at = self.text, *end = at + self.bytes; at < end;) {
        int32_t c = text_next(&at, end);
        if (c != '\t') text_add_char(r, &t, c);
        int64_t wide = c != '\t' ? 1 : size > 0 ? size - column % size : 0;
        for (int64_t i = 0; i < wide && c == '\t'; i++) text_add(r, &t, " ", 1);
        column = c == '\n' || c == '\r' ? 0 : column + wide;
    }
    return text_value(&t);
}

#define IS_METHOD(what)                                                                            \
    static Value method_is##what(Render *r, Value self, const Arguments *a)                        \
    {                                                                                              \
        NO_ARGUMENTS("is" #what);                                                                  \
        return value_bool(string_is(self, #what));                                                 \
    }
IS_METHOD(alnum)
IS_METHOD(alpha)
IS_METHOD(ascii)
IS_METHOD(decimal)
IS_METHOD(digit)
IS_METHOD(lower)
IS_METHOD(numeric)
IS_METHOD(space)
IS_METHOD(title)
IS_METHOD(upper)

// --- methods of dicts and lists ------------------------------------------------------------------

static Value method_get(Render *r, Value self, const Arguments *a)
{
    Value v[2];
    bind_arguments(r, a, "get", "key default", 1, v);
    const Value *found = dict_get(r, self.dict, v[0]);
    return found ? *found : v[1].kind == VALUE_MISSING ? value_none() : v[1];
}

static Value view(Render *r, Value self, int form)
{
    Value list = value_list(r, form);
    render_step(r, self.dict->count);
    for (uint32_t i = 0; i < self.dict->count; i++) {
        const Pair *p = &self.dict->pair[i];
        list_add(r, list,
                 form == FORM_KEYS     ? p->key
                 : form == FORM_VALUES ? p->value
                                       : value_pair(r, p->key, p->value));
    }
    return list;
}
static Value method_keys(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("keys");
    return view(r, self, FORM_KEYS);
}
static Value method_values(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("values");
    return view(r, self, FORM_VALUES);
}
static Value method_items(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("items");
    return view(r, self, FORM_ITEMS);
}

// Nothing in a template can change a dict or list, so a copy may be the thing itself.
static Value method_copy(Render *r, Value self, const Arguments *a)
{
    NO_ARGUMENTS("copy");
    return self;
}

static Value method_list_count(Render *r, Value self, const Arguments *a)
{
    Value v;
    int64_t n = 0;
    bind_arguments(r, a, "count", "value", 1, &v);
    render_step(r, self.list->count);
    for (uint32_t i = 0; i < self.list->count; i++) n += value_equal(r, self.list->item[i], v);
    return value_int(n);
}
static Value method_list_index(Render *r, Value self, const Arguments *a)
{
    Value v;
    bind_arguments(r, a, "index", "value", 1, &v);
    render_step(r, self.list->count);
    for (uint32_t i = 0; i < self.list->count; i++)
        if (value_equal(r, self.list->item[i], v)) return value_int(i);
    render_fail(r, "the value is not in the list");
}

// --- tables --------------------------------------------------------------------------------------

typedef struct {
    const char *name;
    Function function;
} Method;

static const Method string_methods[] = {{"capitalize", method_capitalize},
                                        {"center", method_center},
                                        {"count", method_count},
                                        {"endswith", method_endswith},
                                        {"expandtabs", method_expandtabs},
                                        {"find", method_find},
                                        {"format", string_format},
                                        {"index", method_index},
                                        {"isalnum", method_isalnum},
                                        {"isalpha", method_isalpha},
                                        {"isascii", method_isascii},
                                        {"isdecimal", method_isdecimal},
                                        {"isdigit", method_isdigit},
                                        {"islower", method_islower},
                                        {"isnumeric", method_isnumeric},
                                        {"isspace", method_isspace},
                                        {"istitle", method_istitle},
                                        {"isupper", method_isupper},
                                        {"join", method_join},
                                        {"ljust", method_ljust},
                                        {"lower", method_lower},
                                        {"lstrip", method_lstrip},
                                        {"partition", method_partition},
                                        {"removeprefix", method_removeprefix},
                                        {"removesuffix", method_removesuffix},
                                        {"replace", method_replace},
                                        {"rfind", method_rfind},
                                        {"rindex", method_rindex},
                                        {"rjust", method_rjust},
                                        {"rpartition", method_rpartition},
                                        {"rsplit", method_rsplit},
                                        {"rstrip", method_rstrip},
                                        {"split", method_split},
                                        {"splitlines", method_splitlines},
                                        {"startswith", method_startswith},
                                        {"strip", method_strip},
                                        {"swapcase", method_swapcase},
                                        {"title", method_title},
                                        {"upper", method_upper},
                                        {"zfill", method_zfill},
                                        {NULL, NULL}};

static const Method dict_methods[] = {{"copy", method_copy},     {"get", method_get},
                                      {"items", method_items},   {"keys", method_keys},
                                      {"values", method_values}, {NULL, NULL}};

static const Method list_methods[] = {{"count", method_list_count},
                                      {"index", method_list_index},
                                      {"copy", method_copy},
                                      {NULL, NULL}};

int find_method(Render *r, Value v, const char *name, size_t bytes, Value *method)
{
    const Method *m = NULL;
    if (v.kind == VALUE_STRING) m = string_methods;
    if (v.kind == VALUE_DICT) m = dict_methods;
    if (v.kind == VALUE_LIST && v.form <= FORM_RANGE) m = list_methods;
    for (; m && m->name; m++) {
        if (strlen(m->name) != bytes || memcmp(m->name, name, bytes) != 0) continue;
        Bound *bound = render_alloc(r, sizeof *bound);
        *bound = (Bound){v, m->name, m->function};
        *method = (Value){.kind = VALUE_METHOD, .bound = bound};
        return 1;
    }
    return 0;
}
