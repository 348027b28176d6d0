// The filters and tests of Jinja, with the names that jinja.h lists. Filters that Jinja makes
// generators of do their work at once here; what they give can still be walked only once.
#include "filters.h"
#include "jinja.h"
#include "methods.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define BIND(names, required, out)                                                                 \
    bind_arguments(r, a, __func__ + 7, names, required, out) // "filter_"

static int given(Value v)
{
    return v.kind != VALUE_MISSING;
}

static int is_none(Value v)
{
    return v.kind == VALUE_MISSING || v.kind == VALUE_NONE;
}

// --- keys of items: attribute="a.b.0", without regard to case ------------------------------------

static Value get_part(Render *r, Value v, Value attribute)
{
    if (is_none(attribute)) return v;
    if (attribute.kind != VALUE_STRING) return value_item(r, v, attribute);
    for (const char *at = attribute.text, *end = at + attribute.bytes;; at++) {
        const char *dot = memchr(at, '.', (size_t)(end - at)), *stop = dot ? dot : end;
        int64_t number = 0;
        int digits = stop > at && stop - at < 18;
        for (const char *c = at; c < stop && digits; c++) {
            digits = *c >= '0' && *c <= '9';
            number = number * 10 + (*c - '0');
        }
        v = value_item(r, v, digits ? value_int(number) : value_string(at, (size_t)(stop - at)));
        if (!dot) return v;
        at = dot;
    }
}

static Value fold_case(Render *r, Value v)
{
    return v.kind == VALUE_STRING ? string_case(r, v, 'l') : v;
}

// How to sort or compare items.
typedef struct {
    Value attribute;
    int case_sensitive;
} Key;

static Value key_of(Render *r, Value item, const Key *key)
{
    Value v = get_part(r, item, key->attribute);
    return key->case_sensitive ? v : fold_case(r, v);
}

// For sort: a list of keys, one for every part of attribute="a,b".
static Value sort_key(Render *r, Value item, const Key *key)
{
    Value keys = value_list(r, FORM_LIST), attribute = key->attribute;
    if (attribute.kind != VALUE_STRING) {
        list_add(r, keys, key_of(r, item, key));
        return keys;
    }
    for (const char *at = attribute.text, *end = at + attribute.bytes;; at++) {
        const char *comma = memchr(at, ',', (size_t)(end - at)), *stop = comma ? comma : end;
        Key one = {value_string(at, (size_t)(stop - at)), key->case_sensitive};
        list_add(r, keys, key_of(r, item, &one));
        if (!comma) return keys;
        at = comma;
    }
}

// Sorts items by their keys, equal ones in the order they have; merges runs of growing length.
static void sort_items(Render *r, Value *item, Value *key, uint32_t count, int reverse)
{
    Value *items = render_alloc(r, (count + 1) * sizeof *items);
    Value *keys = render_alloc(r, (count + 1) * sizeof *keys);
    for (uint32_t width = 1; width < count; width *= 2) {
        render_step(r, count);
        for (uint32_t low = 0; low < count; low += 2 * width) {
            uint32_t middle = low + width < count ? low + width : count;
            uint32_t high = middle + width < count ? middle + width : count;
            uint32_t a = low, b = middle;
            for (uint32_t to = low; to < high; to++) {
                int second = b < high;
                if (second && a < middle)
                    second = reverse ? value_compare(r, key[a], key[b], "<") < 0
                                     : value_compare(r, key[b], key[a], "<") < 0;
                uint32_t from = second ? b++ : a++;
                items[to] = item[from];
                keys[to] = key[from];
            }
        }
        memcpy(item, items, count * sizeof *item);
        memcpy(key, keys, count * sizeof *key);
    }
}

static Value sorted(Render *r, Value v, const Key *key,
                    Value (*make_key)(Render *, Value, const Key *), int reverse, Value *keys)
{
    const List *items = value_items(r, v);
    Value result = value_list(r, FORM_LIST), all = value_list(r, FORM_LIST);
    for (uint32_t i = 0; i < items->count; i++) {
        list_add(r, result, items->item[i]);
        list_add(r, all, make_key(r, items->item[i], key));
    }
    if (items->count) sort_items(r, result.list->item, all.list->item, items->count, reverse);
    *keys = all;
    return result;
}

// --- text ----------------------------------------------------------------------------------------

static Value filter_upper(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    return string_case(r, value_text(r, v), 'u');
}

static Value filter_lower(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    return string_case(r, value_text(r, v), 'l');
}

static Value filter_capitalize(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    return string_case(r, value_text(r, v), 'c');
}

// Words begin behind spaces and - ( { [ <, not as str.title has it.
static int ends_word(int32_t c)
{
    return is_space(c) || (c > 0 && c < 128 && strchr("-({[<", c));
}

static Value filter_title(Render *r, Value v, const Arguments *a)
{
    Value s = value_text(r, v);
    Text t = {0};
    BIND("", 0, NULL);
    for (const char *at = s.text, *end = at + s.bytes; at < end;) {
        const char *start = at, *next = at;
        while (next < end && !ends_word(text_next(&next, end))) at = next;
        Value word = string_case(r, value_string(start, (size_t)(at - start)), 'c');
        text_add(r, &t, word.text, word.bytes);
        if (at < next) text_add(r, &t, at, (size_t)(next - at)); // what ends the word
        at = next;
    }
    return text_value(&t);
}

static Value filter_trim(Render *r, Value v, const Arguments *a)
{
    Value chars;
    BIND("chars", 0, &chars);
    return string_strip(r, value_text(r, v), chars, 1, 1);
}

static Value filter_string(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    return value_text(r, v);
}

static Value filter_safe(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    v = value_text(r, v);
    v.form = FORM_MARKUP;
    return v;
}

static Value filter_escape(Render *r, Value v, const Arguments *a)
{
    Value empty = value_literal("");
    BIND("", 0, NULL);
    if (v.kind == VALUE_STRING && v.form == FORM_MARKUP) return v;
    empty.form = FORM_MARKUP;
    Value escaped = value_concat(r, empty, value_text(r, v));
    escaped.form = FORM_MARKUP;
    return escaped;
}

static Value filter_replace(Render *r, Value v, const Arguments *a)
{
    Value o[3];
    BIND("old new count", 2, o);
    return string_replace(r, value_text(r, v), value_text(r, o[0]), value_text(r, o[1]),
                          is_none(o[2]) ? -1 : argument_int(r, "replace", o[2]));
}

static Value filter_center(Render *r, Value v, const Arguments *a)
{
    Value width;
    BIND("width", 0, &width);
    return string_pad(r, value_text(r, v), given(width) ? argument_int(r, "center", width) : 80,
                      ' ', 'c');
}

static Value filter_indent(Render *r, Value v, const Arguments *a)
{
    Value o[3];
    Text t = {0};
    BIND("width first blank", 0, o);
    Value indent = given(o[0]) && o[0].kind == VALUE_STRING
                       ? o[0]
                       : string_pad(r, value_literal(""),
                                    given(o[0]) ? argument_int(r, "indent", o[0]) : 4, ' ', '<');
    int first = given(o[1]) && value_true(o[1]), blank = given(o[2]) && value_true(o[2]);
    if (v.kind != VALUE_STRING) render_fail(r, "indent() needs a string, not %s", value_type(v));
    Value lines = string_lines(r, value_concat(r, v, value_literal("\n")), 0);
    for (uint32_t i = 0; i < lines.list->count; i++) {
        Value line = lines.list->item[i];
        if (i) text_add(r, &t, "\n", 1);
        if (i ? blank || line.bytes : first) text_add(r, &t, indent.text, indent.bytes);
        text_add(r, &t, line.text, line.bytes);
    }
    return text_value(&t);
}

static Value filter_truncate(Render *r, Value v, const Arguments *a)
{
    Value o[4], s = value_text(r, v);
    BIND("length killwords end leeway", 0, o);
    int64_t length = given(o[0]) ? argument_int(r, "truncate", o[0]) : 255;
    int64_t leeway = is_none(o[3]) ? 5 : argument_int(r, "truncate", o[3]);
    Value end = given(o[2]) ? value_text(r, o[2]) : value_literal("...");
    int64_t room = length - (int64_t)text_length(end.text, end.bytes);
    if (room < 0)
        render_fail(r, "expected length >= %zu, got %lld", text_length(end.text, end.bytes),
                    (long long)length);
    if (leeway < 0) render_fail(r, "expected leeway >= 0, got %lld", (long long)leeway);
    if ((int64_t)text_length(s.text, s.bytes) <= length + leeway) return s;
    s.bytes = (uint32_t)text_offset(s.text, s.bytes, (size_t)room);
    if (!given(o[1]) || !value_true(o[1])) { // back to the last space
        const char *space = memrchr(s.text, ' ', s.bytes);
        if (space) s.bytes = (uint32_t)(space - s.text);
    }
    return value_concat(r, s, end);
}

static Value filter_wordcount(Render *r, Value v, const Arguments *a)
{
    Value s = value_text(r, v);
    int64_t words = 0;
    int inside = 0;
    BIND("", 0, NULL);
    for (const char *at = s.text, *end = at + s.bytes; at < end;) {
        const char *start = at;
        text_next(&at, end);
        Value c = value_string(start, (size_t)(at - start));
        int word = *start == '_' || string_is(c, "alnum");
        words += word && !inside;
        inside = word;
    }
    return value_int(words);
}

static void add_quoted(Render *r, Text *t, Value v, const char *safe)
{
    for (uint32_t i = 0; i < v.bytes; i++) {
        unsigned char c = (unsigned char)v.text[i];
        if (isalnum(c) || (c && strchr(safe, c)))
            text_add(r, t, (char *)&c, 1);
        else if (c == ' ' && !strchr(safe, '/'))
            text_add(r, t, "+", 1);
        else
            text_print(r, t, "%%%02X", c);
    }
}

static Value filter_urlencode(Render *r, Value v, const Arguments *a)
{
    Text t = {0};
    BIND("", 0, NULL);
    if (v.kind == VALUE_STRING || (v.kind != VALUE_DICT && v.kind != VALUE_LIST)) {
        add_quoted(r, &t, value_text(r, v), "_.-~/");
        return text_value(&t);
    }
    Arguments none = {0};
    Value method, pairs = v;
    if (v.kind == VALUE_DICT && find_method(r, v, "items", 5, &method))
        pairs = method.bound->function(r, v, &none);
    const List *list = value_items(r, pairs);
    for (uint32_t i = 0; i < list->count; i++) {
        const List *pair = value_items(r, list->item[i]);
        if (pair->count != 2) render_fail(r, "urlencode() needs pairs");
        if (i) text_add(r, &t, "&", 1);
        add_quoted(r, &t, value_text(r, pair->item[0]), "_.-~");
        text_add(r, &t, "=", 1);
        add_quoted(r, &t, value_text(r, pair->item[1]), "_.-~");
    }
    return text_value(&t);
}

static Value filter_format(Render *r, Value v, const Arguments *a)
{
    Value values = a->keywords ? value_dict(r) : value_list(r, FORM_TUPLE);
    if (a->count && a->keywords)
        render_fail(r, "can't handle positional and keyword arguments at the same time");
    for (int i = 0; i < a->count; i++) list_add(r, values, a->item[i]);
    for (int i = 0; i < a->keywords; i++)
        dict_set(r, values.dict, a->keyword[i].key, a->keyword[i].value);
    return format_percent(r, value_text(r, v), values);
}

static Value filter_tojson(Render *r, Value v, const Arguments *a)
{
    Value o[4];
    Text t = {0};
    BIND("ensure_ascii indent separators sort_keys", 0, o);
    JsonForm form = {.ascii = given(o[0]) && value_true(o[0]),
                     .sorted = given(o[3]) && value_true(o[3])};
    if (!is_none(o[1])) {
        Value indent =
            o[1].kind == VALUE_STRING
                ? o[1]
                : string_pad(r, value_literal(""), argument_int(r, "tojson", o[1]), ' ', '<');
        text_add(r, &t, indent.text, indent.bytes);
        text_add(r, &t, "", 1);
        form.indent = t.data;
        t = (Text){0};
    }
    form.item_separator = value_literal(form.indent ? "," : ", ");
    form.key_separator = value_literal(": ");
    if (!is_none(o[2])) {
        const List *pair = value_items(r, o[2]);
        if (pair->count != 2 || pair->item[0].kind != VALUE_STRING ||
            pair->item[1].kind != VALUE_STRING)
            render_fail(r, "tojson() separators must be two strings");
        form.item_separator = pair->item[0];
        form.key_separator = pair->item[1];
    }
    text_add_json(r, &t, v, &form, 0);
    return text_value(&t);
}

// --- numbers -------------------------------------------------------------------------------------

// The number that a text holds, as int() or float() of Python read it; 0 for none.
static int parse_number(Render *r, Value s, int base, int whole, Value *number)
{
    char copy[400];
    size_t n = 0;
    s = string_strip(r, s, value_none(), 1, 1);
    for (uint32_t i = 0; i < s.bytes; i++) {
        if (s.text[i] == '_' && i && i + 1 < s.bytes && isalnum((unsigned char)s.text[i - 1]) &&
            isalnum((unsigned char)s.text[i + 1]))
            continue;
        if (n + 1 == sizeof copy || !s.text[i]) return 0;
        copy[n++] = s.text[i];
    }
    copy[n] = 0;
    char *end;
    errno = 0;
    if (whole) {
        const char *digits = copy + (*copy == '-' || *copy == '+');
        char second = *digits ? digits[1] | 32 : 0;
        int prefix =
            *digits == '0' && ((base == 2 && second == 'b') || (base == 8 && second == 'o'));
        if (!isalnum((unsigned char)*digits)) return 0;
        int64_t value = strtoll(digits + 2 * prefix, &end, base);
        if (*end || end == digits + 2 * prefix) return 0;
        if (errno) render_fail(r, "an integer beyond 64 bits");
        return *number = value_int(*copy == '-' ? -value : value), 1;
    }
    if (n && (copy[n - 1] | 32) == 'x') return 0;
    if (strpbrk(copy, "xX()") || isspace((unsigned char)*copy)) return 0; // no hexadecimal floats
    double value = strtod(copy, &end);
    if (!n || *end) return 0;
    return *number = value_float(value), 1;
}

static Value truncated(Render *r, double d)
{
    if (!(fabs(d) < 9.2e18)) render_fail(r, "cannot convert %g to an integer of 64 bits", d);
    return value_int((int64_t)d);
}

static Value filter_int(Render *r, Value v, const Arguments *a)
{
    Value o[2], n;
    BIND("default base", 0, o);
    int64_t base = given(o[1]) ? argument_int(r, "int", o[1]) : 10;
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
    if (v.kind == VALUE_BOOL || v.kind == VALUE_INT) return value_int(v.integer);
    if (v.kind == VALUE_FLOAT && isfinite(v.number)) return truncated(r, v.number);
    if (v.kind == VALUE_STRING && base >= 2 && base <= 36 && parse_number(r, v, (int)base, 1, &n))
        return n;
    if (v.kind == VALUE_STRING && parse_number(r, v, 10, 0, &n) && isfinite(n.number))
        return truncated(r, n.number);
    return given(o[0]) ? o[0] : value_int(0);
}

static Value filter_float(Render *r, Value v, const Arguments *a)
{
    Value o, n;
    BIND("default", 0, &o);
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
    if (value_is_number(v)) return value_float(value_number(v));
    if (v.kind == VALUE_STRING && parse_number(r, v, 10, 0, &n)) return n;
    return given(o) ? o : value_float(0);
}

static Value filter_abs(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
    if (!value_is_number(v)) render_fail(r, "bad operand type for abs(): '%s'", value_type(v));
    if (v.kind == VALUE_FLOAT) return value_float(fabs(v.number));
    return v.integer < 0 ? value_binary(r, JINJA_SUB, value_int(0), v) : value_int(v.integer);
}

static Value filter_round(Render *r, Value v, const Arguments *a)
{
    Value o[2];
    BIND("precision method", 0, o);
    int64_t precision = given(o[0]) ? argument_int(r, "round", o[0]) : 0;
    Value method = given(o[1]) ? o[1] : value_literal("common");
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
    int up = value_equal(r, method, value_literal("ceil")),
        down = value_equal(r, method, value_literal("floor"));
    if (!up && !down && !value_equal(r, method, value_literal("common")))
        render_fail(r, "method must be common, ceil or floor");
    if (!value_is_number(v))
        render_fail(r, "type %s doesn't define __round__ method", value_type(v));
    double d = value_number(v), scale = pow(10, (double)precision);
    if (up || down) return value_float((up ? ceil(d * scale) : floor(d * scale)) / scale);
    if (v.kind != VALUE_FLOAT && precision >= 0) return value_int(v.integer);
    if (v.kind != VALUE_FLOAT) { // to a multiple of 10, 100 ...; halves to the even one
        if (precision < -18) return value_int(0);
        int64_t unit = (int64_t)pow(10, (double)-precision),
                low = v.integer - ((v.integer % unit) + unit) % unit;
        int64_t rest = v.integer - low;
        return value_int(rest * 2 > unit || (rest * 2 == unit && low / unit % 2) ? low + unit
                                                                                 : low);
    }
    if (!isfinite(d) || precision > 300) return v;
    if (precision < 0) return value_float(nearbyint(d * scale) / scale);
    char text[700]; // printf rounds exactly
    snprintf(text, sizeof text, "%.*f", (int)precision, d);
    return value_float(strtod(text, NULL));
}

static Value filter_sum(Render *r, Value v, const Arguments *a)
{
    Value o[2];
    BIND("attribute start", 0, o);
    Value sum = given(o[1]) ? o[1] : value_int(0);
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++)
        sum = value_binary(r, JINJA_ADD, sum, get_part(r, items->item[i], o[0]));
    return sum;
}

// --- sequences -----------------------------------------------------------------------------------

static Value filter_length(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    return value_int(value_length(r, v));
}

static Value filter_first(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    if (v.kind == VALUE_LIST && v.form == FORM_GENERATOR && v.list->used < v.list->count)
        return v.list->item[v.list->used++];
    const List *items = value_items(r, v);
    return items->count ? items->item[0] : value_undefined(r, "No first item, sequence was empty.");
}

static Value filter_last(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    if (!value_has_length(v)) render_fail(r, "'%s' object is not reversible", value_type(v));
    const List *items = value_items(r, v);
    return items->count ? items->item[items->count - 1]
                        : value_undefined(r, "No last item, sequence was empty.");
}

static Value filter_list(Render *r, Value v, const Arguments *a)
{
    Value list = value_list(r, FORM_LIST);
    BIND("", 0, NULL);
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) list_add(r, list, items->item[i]);
    render_step(r, items->count);
    return list;
}

static Value filter_reverse(Render *r, Value v, const Arguments *a)
{
    BIND("", 0, NULL);
    const List *items = value_items(r, v);
    Value list = value_list(r, FORM_GENERATOR);
    for (uint32_t i = items->count; i > 0; i--) list_add(r, list, items->item[i - 1]);
    if (v.kind == VALUE_LIST && v.form == FORM_GENERATOR) list.form = FORM_LIST;
    if (v.kind != VALUE_STRING) return list;
    Text t = {0};
    for (uint32_t i = 0; i < list.list->count; i++) text_add_value(r, &t, list.list->item[i]);
    return text_value(&t);
}

static Value filter_join(Render *r, Value v, const Arguments *a)
{
    Value o[2];
    Text t = {0};
    BIND("d attribute", 0, o);
    Value separator = given(o[0]) ? value_text(r, o[0]) : value_literal("");
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) {
        if (i) text_add(r, &t, separator.text, separator.bytes);
        text_add_value(r, &t, get_part(r, items->item[i], o[1]));
    }
    return text_value(&t);
}

static Value filter_sort(Render *r, Value v, const Arguments *a)
{
    Value o[3], keys;
    BIND("reverse case_sensitive attribute", 0, o);
    Key key = {o[2], given(o[1]) && value_true(o[1])};
    return sorted(r, v, &key, sort_key, given(o[0]) && value_true(o[0]), &keys);
}

static Value filter_dictsort(Render *r, Value v, const Arguments *a)
{
    Value o[3], keys, pairs, method;
    Arguments none = {0};
    BIND("case_sensitive by reverse", 0, o);
    int by_value = given(o[1]) && value_equal(r, o[1], value_literal("value"));
    if (given(o[1]) && !by_value && !value_equal(r, o[1], value_literal("key")))
        render_fail(r, "You can only sort by either \"key\" or \"value\"");
    if (v.kind != VALUE_DICT || !find_method(r, v, "items", 5, &method))
        render_fail(r, "'%s' object has no attribute 'items'", value_type(v));
    pairs = method.bound->function(r, v, &none);
    Key key = {value_int(by_value), given(o[0]) && value_true(o[0])};
    return sorted(r, pairs, &key, key_of, given(o[2]) && value_true(o[2]), &keys);
}

static Value extreme(Render *r, Value v, const Arguments *a, const char *name, int sign)
{
    Value o[2];
    bind_arguments(r, a, name, "case_sensitive attribute", 0, o);
    Key key = {o[1], given(o[0]) && value_true(o[0])};
    const List *items = value_items(r, v);
    if (!items->count) return value_undefined(r, "No aggregated item, sequence was empty.");
    Value best = items->item[0], best_key = key_of(r, best, &key);
    for (uint32_t i = 1; i < items->count; i++) {
        Value k = key_of(r, items->item[i], &key);
        if (value_compare(r, k, best_key, sign < 0 ? "<" : ">") != sign) continue;
        best = items->item[i];
        best_key = k;
    }
    return best;
}

static Value filter_min(Render *r, Value v, const Arguments *a)
{
    return extreme(r, v, a, "min", -1);
}

static Value filter_max(Render *r, Value v, const Arguments *a)
{
    return extreme(r, v, a, "max", 1);
}

static Value filter_unique(Render *r, Value v, const Arguments *a)
{
    Value o[2], list = value_list(r, FORM_GENERATOR), seen = value_dict(r);
    BIND("case_sensitive attribute", 0, o);
    Key key = {o[1], given(o[0]) && value_true(o[0])};
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) {
        Value k = key_of(r, items->item[i], &key);
        if (dict_get(r, seen.dict, k)) continue;
        dict_set(r, seen.dict, k, value_none());
        list_add(r, list, items->item[i]);
    }
    return list;
}

static Value filter_groupby(Render *r, Value v, const Arguments *a)
{
    Value o[3], keys, groups = value_list(r, FORM_LIST), members = {.kind = VALUE_MISSING};
    BIND("attribute default case_sensitive", 1, o);
    Key key = {o[0], given(o[2]) && value_true(o[2])};
    Value list = value_list(r, FORM_LIST);
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) list_add(r, list, items->item[i]);
    list = sorted(r, list, &key, key_of, 0, &keys);
    for (uint32_t i = 0; i < list.list->count; i++) {
        Value item = list.list->item[i];
        if (!i || !value_equal(r, keys.list->item[i], keys.list->item[i - 1])) {
            Value name = get_part(r, item, o[0]);
            if (name.kind == VALUE_UNDEFINED && given(o[1])) name = o[1];
            members = value_list(r, FORM_LIST);
            Value group = value_pair(r, name, members);
            group.form = FORM_GROUP;
            list_add(r, groups, group);
        }
        list_add(r, members, item);
    }
    return groups;
}

static Value filter_batch(Render *r, Value v, const Arguments *a)
{
    Value o[2], batches = value_list(r, FORM_GENERATOR), row = {.kind = VALUE_MISSING};
    BIND("linecount fill_with", 1, o);
    int64_t width = argument_int(r, "batch", o[0]);
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) {
        if (!given(row) || row.list->count == width) {
            row = value_list(r, FORM_LIST);
            list_add(r, batches, row);
        }
        list_add(r, row, items->item[i]);
    }
    while (given(row) && !is_none(o[1]) && row.list->count < width) {
        list_add(r, row, o[1]);
        render_step(r, 1);
    }
    return batches;
}

static Value filter_slice(Render *r, Value v, const Arguments *a)
{
    Value o[2], slices = value_list(r, FORM_GENERATOR);
    BIND("slices fill_with", 1, o);
    int64_t count = argument_int(r, "slice", o[0]);
    const List *items = value_items(r, v);
    if (count <= 0) render_fail(r, "integer division or modulo by zero");
    uint32_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        Value slice = value_list(r, FORM_LIST);
        int64_t longer = items->count % count;
        for (int64_t k = items->count / count + (i < longer); k > 0; k--)
            list_add(r, slice, items->item[at++]);
        if (!is_none(o[1]) && i >= longer) list_add(r, slice, o[1]);
        list_add(r, slices, slice);
        render_step(r, 1);
    }
    return slices;
}

static Value filter_items(Render *r, Value v, const Arguments *a)
{
    Value method, list;
    Arguments none = {0};
    BIND("", 0, NULL);
    if (v.kind == VALUE_UNDEFINED) return value_list(r, FORM_GENERATOR);
    if (v.kind != VALUE_DICT) render_fail(r, "Can only get item pairs from a mapping.");
    find_method(r, v, "items", 5, &method);
    list = method.bound->function(r, v, &none);
    list.form = FORM_GENERATOR;
    return list;
}

static Value filter_attr(Render *r, Value v, const Arguments *a)
{
    Value name;
    BIND("name", 1, &name);
    name = value_text(r, name);
    if (v.kind == VALUE_DICT && !find_method(r, v, name.text, name.bytes, &(Value){0}))
        return value_undefined(r, "'dict object' has no attribute '%.*s'", (int)name.bytes,
                               name.text);
    return value_attribute(r, v, name);
}

static Value filter_default(Render *r, Value v, const Arguments *a)
{
    Value o[2];
    BIND("default_value boolean", 0, o);
    int replaced = v.kind == VALUE_UNDEFINED || (given(o[1]) && value_true(o[1]) && !value_true(v));
    if (!replaced) return v;
    return given(o[0]) ? o[0] : value_literal("");
}

// --- filters that apply filters and tests --------------------------------------------------------

static int find_filter(Value name);
static int find_test(Value name);

static Value filter_map(Render *r, Value v, const Arguments *a)
{
    Value list = value_list(r, FORM_GENERATOR), attribute = {.kind = VALUE_MISSING},
          other = attribute;
    int filter = -1;
    Arguments rest = {a->count ? a->item + 1 : NULL, a->count - 1, a->keyword, a->keywords};
    for (int i = 0; i < a->keywords && !a->count; i++) {
        Value key = a->keyword[i].key;
        if (value_equal(r, key, value_literal("attribute")))
            attribute = a->keyword[i].value;
        else if (value_equal(r, key, value_literal("default")))
            other = a->keyword[i].value;
        else
            render_fail(r, "Unexpected keyword argument '%.*s'",
                        (int)(key.bytes > 60 ? 60 : key.bytes), key.text);
    }
    if (!given(attribute)) {
        if (!a->count) render_fail(r, "map requires a filter argument");
        filter = find_filter(a->item[0]);
        Value name = value_text(r, a->item[0]);
        if (filter < 0)
            render_fail(r, "No filter named '%.*s'.", (int)(name.bytes > 60 ? 60 : name.bytes),
                        name.text);
    }
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) {
        render_step(r, 1);
        Value item = filter >= 0 ? apply_filter(r, filter, items->item[i], &rest)
                                 : get_part(r, items->item[i], attribute);
        if (item.kind == VALUE_UNDEFINED && given(other) && filter < 0) item = other;
        list_add(r, list, item);
    }
    return list;
}

static Value choose_items(Render *r, Value v, const Arguments *a, int by_attribute, int wanted)
{
    Value list = value_list(r, FORM_GENERATOR), attribute = {.kind = VALUE_MISSING};
    int skip = by_attribute, test = -1;
    if (by_attribute) {
        if (!a->count) render_fail(r, "Missing parameter for attribute name");
        attribute = a->item[0];
    }
    if (a->count > skip) {
        Value name = a->item[skip];
        test = find_test(name);
        name = value_text(r, name);
        if (test < 0)
            render_fail(r, "No test named '%.*s'.", (int)(name.bytes > 60 ? 60 : name.bytes),
                        name.text);
        skip++;
    }
    Arguments rest = {a->count ? a->item + skip : NULL, a->count - skip, a->keyword, a->keywords};
    if (!value_true(v)) return list;
    const List *items = value_items(r, v);
    for (uint32_t i = 0; i < items->count; i++) {
        render_step(r, 1);
        Value part = get_part(r, items->item[i], attribute);
        int passes = test < 0 ? value_true(part) : apply_test(r, test, part, &rest);
        if (passes == wanted) list_add(r, list, items->item[i]);
    }
    return list;
}

static Value filter_select(Render *r, Value v, const Arguments *a)
{
    return choose_items(r, v, a, 0, 1);
}

static Value filter_reject(Render *r, Value v, const Arguments *a)
{
    return choose_items(r, v, a, 0, 0);
}

static Value filter_selectattr(Render *r, Value v, const Arguments *a)
{
    return choose_items(r, v, a, 1, 1);
}

static Value filter_rejectattr(Render *r, Value v, const Arguments *a)
{
    return choose_items(r, v, a, 1, 0);
}

// --- tests ---------------------------------------------------------------------------------------

#define TEST(name, condition)                                                                      \
    static int test_##name(Render *r, Value v, const Arguments *a)                                 \
    {                                                                                              \
        bind_arguments(r, a, #name, "", 0, NULL);                                                  \
        (void)v;                                                                                   \
        return condition;                                                                          \
    }
#define TEST_WITH(name, condition)                                                                 \
    static int test_##name(Render *r, Value v, const Arguments *a)                                 \
    {                                                                                              \
        Value o;                                                                                   \
        bind_arguments(r, a, #name, "other", 1, &o);                                               \
        return condition;                                                                          \
    }

static int64_t remainder_of(Render *r, Value v, Value by)
{
    Value rest = value_binary(r, JINJA_MOD, v, by);
    if (!value_is_number(rest)) render_fail(r, "not a number");
    return rest.kind == VALUE_FLOAT
               ? (rest.number == floor(rest.number) ? (int64_t)rest.number : -1)
               : rest.integer;
}

TEST(boolean, v.kind == VALUE_BOOL)
TEST(callable, v.kind == VALUE_UNDEFINED || (v.kind >= VALUE_METHOD && v.kind != VALUE_CYCLER))
TEST(defined, v.kind != VALUE_UNDEFINED)
TEST(undefined, v.kind == VALUE_UNDEFINED)
TEST(escaped, v.kind == VALUE_STRING && v.form == FORM_MARKUP)
TEST(even, remainder_of(r, v, value_int(2)) == 0)
TEST(odd, remainder_of(r, v, value_int(2)) == 1)
TEST(false, v.kind == VALUE_BOOL && !v.integer)
TEST(true, v.kind == VALUE_BOOL && v.integer)
TEST(filter, find_filter(v) >= 0)
TEST(test, find_test(v) >= 0)
TEST(float, v.kind == VALUE_FLOAT)
TEST(integer, v.kind == VALUE_INT)
TEST(iterable, v.kind == VALUE_LIST || v.kind == VALUE_DICT || v.kind == VALUE_STRING ||
                   v.kind == VALUE_UNDEFINED || v.kind == VALUE_LOOP)
TEST(lower, string_is(value_text(r, v), "lower"))
TEST(upper, string_is(value_text(r, v), "upper"))
TEST(mapping, v.kind == VALUE_DICT)
TEST(none, v.kind == VALUE_NONE)
TEST(number, value_is_number(v))
TEST(sequence, v.kind == VALUE_STRING || v.kind == VALUE_DICT || v.kind == VALUE_UNDEFINED ||
                   (v.kind == VALUE_LIST && v.form <= FORM_RANGE))
TEST(string, v.kind == VALUE_STRING)
TEST_WITH(divisibleby, remainder_of(r, v, o) == 0)
TEST_WITH(eq, value_equal(r, v, o))
TEST_WITH(ne, !value_equal(r, v, o))
TEST_WITH(lt, value_compare(r, v, o, "<") == -1)
TEST_WITH(le, value_compare(r, v, o, "<=") <= 0)
TEST_WITH(gt, value_compare(r, v, o, ">") == 1)
TEST_WITH(ge, (unsigned)value_compare(r, v, o, ">=") <= 1)
TEST_WITH(in, value_contains(r, o, v))
TEST_WITH(sameas,
          v.kind == o.kind && (v.kind == VALUE_LIST || v.kind >= VALUE_DICT ? v.object == o.object
                                                                            : value_equal(r, v, o)))

// --- tables --------------------------------------------------------------------------------------

static const struct {
    const char *name;
    Function function;
} filters[] = {
#define FILTER_ROW(function, name) {name, filter_##function},
    JINJA_FILTERS(FILTER_ROW)};

static const struct {
    const char *name;
    int (*function)(Render *r, Value v, const Arguments *a);
} tests[] = {
#define TEST_ROW(function, name) {name, test_##function},
    JINJA_TESTS(TEST_ROW)};

#define FILTER_COUNT ((int)(sizeof filters / sizeof *filters))
#define TEST_COUNT ((int)(sizeof tests / sizeof *tests))

static int find_filter(Value name)
{
    for (int i = 0; i < FILTER_COUNT && name.kind == VALUE_STRING; i++)
        if (strlen(filters[i].name) == name.bytes &&
            memcmp(filters[i].name, name.text, name.bytes) == 0)
            return i;
    return -1;
}

static int find_test(Value name)
{
    for (int i = 0; i < TEST_COUNT && name.kind == VALUE_STRING; i++)
        if (strlen(tests[i].name) == name.bytes &&
            memcmp(tests[i].name, name.text, name.bytes) == 0)
            return i;
    return -1;
}

Value apply_filter(Render *r, int filter, Value v, const Arguments *a)
{
    if (filter < 0 || filter >= FILTER_COUNT) render_fail(r, "filter %d is unknown", filter);
    render_enter(r);
    Value result = filters[filter].function(r, v, a);
    render_leave(r);
    return result;
}

int apply_test(Render *r, int test, Value v, const Arguments *a)
{
    if (test < 0 || test >= TEST_COUNT) render_fail(r, "test %d is unknown", test);
    return tests[test].function(r, v, a);
}
