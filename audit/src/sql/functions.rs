//! The functions of the servers, which write no table.

/// Whether a function is one of PostgreSQL, CockroachDB or their usual extensions, by its name in
/// small letters.
///
/// A name that is not in the list belongs to the service, and may do anything.
pub(super) fn is_of_server(name: &str) -> bool {
    let name = match name.rsplit_once('.') {
        Some(("pg_catalog" | "crdb_internal" | "information_schema", _)) => return true,
        Some(("public", name)) => name,
        Some(_) => return false,
        None => name,
    };
    FAMILIES.iter().any(|family| name.starts_with(family)) || FUNCTIONS.contains(&name)
}

/// The beginnings of names that go on in many ways.
const FAMILIES: [&str; 12] = [
    "array_", "bit_", "bool_", "has_", "inet_", "json", "make_", "pg_", "range_", "regexp_", "st_",
    "ts_",
];

#[rustfmt::skip]
const FUNCTIONS: &[&str] = &[
    // Aggregates and windows.
    "avg", "corr", "count", "covar_pop", "covar_samp", "cume_dist", "dense_rank", "every",
    "first_value", "grouping", "lag", "last_value", "lead", "max", "min", "mode", "nth_value",
    "ntile", "percent_rank", "percentile_cont", "percentile_disc", "rank", "row_number", "stddev",
    "stddev_pop", "stddev_samp", "string_agg", "sum", "var_pop", "var_samp", "variance", "xmlagg",
    // Conditions, arrays and ranges.
    "all", "any", "cardinality", "coalesce", "daterange", "generate_series", "generate_subscripts",
    "greatest", "int4range", "int8range", "isempty", "least", "lower_inc", "lower_inf", "nullif",
    "num_nonnulls", "num_nulls", "numrange", "row", "some", "string_to_array", "trim_array",
    "tsrange", "tstzrange", "unnest", "upper_inc", "upper_inf",
    // Numbers.
    "abs", "cbrt", "ceil", "ceiling", "degrees", "div", "exp", "factorial", "floor", "gcd", "lcm",
    "ln", "log", "log10", "mod", "pi", "pow", "power", "radians", "random", "round", "sign", "sqrt",
    "trunc", "width_bucket",
    // Texts and bytes.
    "ascii", "btrim", "char_length", "character_length", "chr", "concat", "concat_ws", "convert_from",
    "convert_to", "crypt", "decode", "digest", "encode", "format", "gen_random_bytes", "gen_salt",
    "get_bit", "get_byte", "hmac", "initcap", "left", "length", "levenshtein", "lower", "lpad",
    "ltrim", "md5", "metaphone", "normalize", "octet_length", "overlay", "position", "quote_ident",
    "quote_literal", "quote_nullable", "repeat", "replace", "reverse", "right", "rpad", "rtrim",
    "set_bit", "set_byte", "sha224", "sha256", "sha384", "sha512", "similarity", "soundex",
    "split_part", "starts_with", "strpos", "substr", "substring", "to_ascii", "to_hex", "translate",
    "trim", "unaccent", "unistr", "upper", "word_similarity",
    // Times.
    "age", "clock_timestamp", "current_date", "current_time", "current_timestamp", "date_bin",
    "date_part", "date_trunc", "extract", "isfinite", "justify_days", "justify_hours",
    "justify_interval", "localtime", "localtimestamp", "now", "statement_timestamp", "timeofday",
    "timezone", "to_char", "to_date", "to_number", "to_timestamp", "transaction_timestamp",
    // Documents and searches.
    "numnode", "phraseto_tsquery", "plainto_tsquery", "querytree", "row_to_json", "setweight",
    "to_json", "to_jsonb", "to_tsquery", "to_tsvector", "tsvector_to_array", "websearch_to_tsquery",
    // Identifiers and sequences.
    "currval", "gen_random_ulid", "gen_random_uuid", "lastval", "nextval", "setval", "unique_rowid",
    "unordered_unique_rowid", "uuid_generate_v1", "uuid_generate_v4", "uuid_generate_v5", "uuid_v4",
    "uuidv4", "uuidv7",
    // Networks.
    "broadcast", "family", "host", "hostmask", "masklen", "netmask", "network",
    // The session and the server.
    "cluster_logical_timestamp", "col_description", "current_catalog", "current_database",
    "current_query", "current_role", "current_schema", "current_schemas", "current_setting",
    "current_user", "follower_read_timestamp", "gateway_region", "obj_description", "session_user",
    "set_config", "statement_timestamp", "to_regclass", "to_regnamespace", "to_regproc",
    "to_regrole", "to_regtype", "txid_current", "txid_current_if_assigned", "user", "version",
    "with_max_staleness", "with_min_timestamp",
    // Types, as functions.
    "bigint", "date", "float4", "float8", "int", "int2", "int4", "int8", "integer", "interval",
    "numeric", "text", "timestamp", "timestamptz", "uuid", "varchar",
];

#[cfg(test)]
mod tests {
    use super::is_of_server;

    #[test]
    fn functions_of_the_server_are_known() {
        for name in [
            "count",
            "pg_catalog.anything",
            "json_build_object",
            "public.digest",
        ] {
            assert!(is_of_server(name), "{name}");
        }
        for name in [
            "purge",
            "app.count",
            "delete_all",
            "dblink_exec",
            "lo_import",
        ] {
            assert!(!is_of_server(name), "{name}");
        }
    }
}
