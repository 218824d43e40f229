//! Hiding what looks like a secret among a program's arguments.
//!
//! Secrets are told by the names they go by: `--password x`, `token=x`, `Authorization: x`, `user:x@host`. Rather too much
//! is hidden than too little. A secret that is an argument of its own without any name cannot be told from other text.

/// What stands in place of a secret.
pub(super) const HIDDEN: &str = "***";

/// Names, and ends of names, of secrets; without separators at their end.
const NAMES: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "token",
    "secret",
    "apikey",
    "api_key",
    "accesskey",
    "access_key",
    "secretkey",
    "secret_key",
    "privatekey",
    "private_key",
    "credential",
    "credentials",
    "authorization",
];
/// The same, but as whole words only.
const WORDS: [&str; 6] = ["pass", "pwd", "pw", "auth", "cookie", "bearer"];
/// Programs for which `-p` has nothing to do with passwords.
const OTHER_P: [&str; 24] = [
    "bash", "cp", "docker", "gdb", "git", "install", "kubectl", "lsof", "mkdir", "mkfifo", "nc", "ncat",
    "nmap", "node", "perf", "pgrep", "podman", "ps", "psql", "rmdir", "sh", "ssh", "strace", "tar",
];
/// Programs that take a password directly after `-p`.
const GLUED_P: [&str; 4] = ["mysql", "mariadb", "sshpass", "mysqldump"];

/// Hides the secrets among arguments, the program's own name first.
pub(super) fn arguments(args: &mut [String]) {
    let program = args.first().map(|name| base(name).to_owned()).unwrap_or_default();
    let p_hides = !OTHER_P.contains(&program.as_str());
    let glued = GLUED_P.iter().any(|name| program.starts_with(name));
    let mut is_value = false;
    for argument in args.iter_mut() {
        let (cleaned, value_follows) = text(argument);
        let is_glued = glued && argument.len() > 2 && argument.starts_with("-p");
        let follows = value_follows && !is_glued || p_hides && argument == "-p";
        *argument = if is_value {
            HIDDEN.to_owned()
        } else if is_glued {
            format!("-p{HIDDEN}")
        } else {
            cleaned
        };
        is_value = follows;
    }
}

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// One argument without its secrets, and whether it ends with the name of one whose value comes next.
fn text(argument: &str) -> (String, bool) {
    let mut out = String::with_capacity(argument.len());
    let mut rest = argument;
    while !rest.is_empty() {
        let name = name_at(rest);
        if name.is_empty() {
            rest = other(rest, &mut out);
            continue;
        }
        let (is_first, after) = (out.is_empty(), &rest[name.len()..]);
        out.push_str(name);
        rest = after;
        if !is_secret(name) {
            continue;
        }
        if after.is_empty() && name.starts_with('-') {
            return (out, true);
        }
        if let Some((kept, value)) = value_after(name, after, is_first) {
            out.push_str(&after[..kept]);
            out.push_str(HIDDEN);
            rest = &after[kept + value..];
        }
    }
    (out, false)
}

/// The name or word that begins here; empty if none does.
fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')));
    &text[..end.unwrap_or(text.len())]
}

/// Takes over what is part of no name; a URL without what it says of its user.
fn other<'a>(text: &'a str, out: &mut String) -> &'a str {
    const URL: &str = "://";
    if let Some(rest) = text.strip_prefix(URL) {
        let is_web = out.ends_with("http") || out.ends_with("https");
        out.push_str(URL);
        let Some((kept, end)) = user_of(rest, is_web) else { return rest };
        out.push_str(&rest[..kept]);
        out.push_str(HIDDEN);
        return &rest[end..];
    }
    let mut characters = text.chars();
    out.extend(characters.next());
    characters.as_str()
}

/// In `user:secret@host`, where the secret begins and ends. What has no colon is a user's name, but at web servers a
/// token.
fn user_of(url: &str, is_web: bool) -> Option<(usize, usize)> {
    let end = url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')).unwrap_or(url.len());
    let url = &url[..end];
    let host_end = url.find(['/', '?', '#']).unwrap_or(url.len());
    let colon = url.find(':').filter(|colon| *colon < host_end);
    let at = match (url[..host_end].rfind('@'), colon) {
        (Some(at), _) => at,
        // A secret with a slash in it, unless what follows the colon is a port.
        (None, Some(colon)) if !is_port(&url[colon + 1..host_end]) => url.rfind('@')?,
        _ => return None,
    };
    match colon.filter(|colon| *colon < at) {
        Some(colon) => Some((colon + 1, at)),
        None if is_web => Some((0, at)),
        None => None,
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_secret(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_ascii_lowercase().replace(['-', '.'], "_");
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    let last = name.rsplit('_').next().unwrap_or(name);
    WORDS.contains(&last) || NAMES.iter().any(|secret| name.ends_with(secret))
}

/// What follows the name of a secret: how much of it stays, and the length of the value. `is_first`: the name begins the
/// argument, so that everything behind an equals sign is its value.
fn value_after(name: &str, after: &str, is_first: bool) -> Option<(usize, usize)> {
    // The name may be in quotes or brackets itself.
    let closed = after.trim_start_matches(['"', '\'', '\\', ']']);
    let begin = closed.trim_start();
    let (value, separator) = match begin.chars().next() {
        Some(separator @ ('=' | ':')) => (begin[1..].trim_start_matches('>').trim_start(), separator),
        // `--password x` within a line, and `Bearer x`.
        Some(_) if closed.len() > begin.len() => {
            let is_name = name.starts_with('-') || name.eq_ignore_ascii_case("bearer");
            (is_name.then_some(begin)?, ' ')
        }
        _ => return None,
    };
    let (open, inner) = quoted(value);
    let length = match (open, separator) {
        (Some(quote), _) => closing(inner, quote),
        (None, '=') if is_first => inner.len(),
        // A header goes to the end of its line.
        (None, ':') => inner.find(['\n', '\r', '"', '\'']).unwrap_or(inner.len()),
        (None, '=') => {
            let ends = |c: char| c.is_whitespace() || matches!(c, '&' | ';' | '"' | '\'' | '`');
            inner.find(ends).unwrap_or(inner.len())
        }
        (None, _) => inner.find(char::is_whitespace).unwrap_or(inner.len()),
    };
    (length > 0).then_some((after.len() - inner.len(), length))
}

/// The quote a value begins with, and what is behind it.
fn quoted(value: &str) -> (Option<char>, &str) {
    let bare = value.strip_prefix('\\').unwrap_or(value);
    match bare.chars().next() {
        Some(quote @ ('"' | '\'')) => (Some(quote), &bare[1..]),
        _ => (None, value),
    }
}

/// Where a quoted value ends: before the quote that is not escaped, or with the text.
fn closing(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !is_escaped {
            return at;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(args: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        arguments(&mut args);
        args
    }

    fn one(argument: &str) -> String {
        redacted(&["program", argument]).remove(1)
    }

    #[test]
    fn the_value_after_the_name_of_a_secret_is_hidden() {
        assert_eq!(
            redacted(&["x", "--password", "s", "--user", "u"]),
            ["x", "--password", "***", "--user", "u"]
        );
        assert_eq!(redacted(&["x", "-token", "s", "y"]), ["x", "-token", "***", "y"]);
        assert_eq!(redacted(&["x", "-p", "s", "y"]), ["x", "-p", "***", "y"]);
        assert_eq!(redacted(&["/bin/mkdir", "-p", "a/b"]), ["/bin/mkdir", "-p", "a/b"]);
        assert_eq!(redacted(&["/usr/bin/mysql", "-psecret", "db"]), ["/usr/bin/mysql", "-p***", "db"]);
        // What is hidden may be the name of a secret itself.
        assert_eq!(redacted(&["x", "-p", "--password", "s"]), ["x", "-p", "***", "***"]);
        assert_eq!(redacted(&["x", "--token-file", "/a"]), ["x", "--token-file", "/a"]);
    }

    #[test]
    fn values_within_an_argument_are_hidden() {
        for (argument, expected) in [
            ("--password=a,b&c d", "--password=***"),
            ("PGPASSWORD=x", "PGPASSWORD=***"),
            ("DB_PASSWORD_2=x", "DB_PASSWORD_2=***"),
            ("-Dspring.datasource.password=x", "-Dspring.datasource.password=***"),
            ("accessToken=x", "accessToken=***"),
            ("host=h password=x dbname=d", "host=h password=*** dbname=d"),
            ("Server=h;Pwd=x;Db=d", "Server=h;Pwd=***;Db=d"),
            ("http://h/?api_key=x&page=2", "http://h/?api_key=***&page=2"),
            ("db[password]=x", "db[password]=***"),
            ("{\"password\": \"a \\\" b\", \"n\": 1}", "{\"password\": \"***\", \"n\": 1}"),
            ("Authorization: Bearer abc def", "Authorization: ***"),
            ("-HAuthorization: Basic abc", "-HAuthorization: ***"),
            ("X-Api-Key: x", "X-Api-Key: ***"),
            ("pass:x", "pass:***"),
            ("use Bearer abc now", "use Bearer *** now"),
            ("mysql --password s --host h", "mysql --password *** --host h"),
            ("mysql --password 'a b' --host h", "mysql --password '***' --host h"),
            ("--max-tokens=100", "--max-tokens=100"),
            ("--bypass=1", "--bypass=1"),
            ("compass", "compass"),
        ] {
            assert_eq!(one(argument), expected);
        }
    }

    #[test]
    fn urls_lose_their_users_secrets() {
        for (argument, expected) in [
            ("postgres://u:s@h:5432/d", "postgres://u:***@h:5432/d"),
            ("--url=amqp://u:p/w@h", "--url=amqp://u:***@h"),
            ("https://ghp_x@h/r.git", "https://***@h/r.git"),
            ("ssh://git@h/r.git", "ssh://git@h/r.git"),
            ("http://h:80/a@b", "http://h:80/a@b"),
            ("http://h/x:y@z", "http://h/x:y@z"),
        ] {
            assert_eq!(one(argument), expected);
        }
    }

    proptest! {
        #[test]
        fn any_arguments_stay_as_many_and_redacting_twice_changes_nothing(
            args in proptest::collection::vec("(\\PC|[-=:\"' ]|password|--token|://|@|\\\\){0,12}", 0..6),
        ) {
            let mut once = args.clone();
            arguments(&mut once);
            prop_assert_eq!(once.len(), args.len());
            let mut twice = once.clone();
            arguments(&mut twice);
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn a_named_secret_never_comes_through(
            secret in "[A-Za-z0-9!#$%()*+,./<>?^_{|}~-]{6,20}",
            name in "(password|PASSWD|api_key|api-key|authToken|client_secret|X-Auth-Token|private[.]key)",
            lead in "(|-|--|my_|x=1 --|a&b;)",
        ) {
            // A secret that happens to be part of the rest proves nothing.
            let name = format!("{lead}{name}");
            prop_assume!(!name.contains(&secret) && !secret.contains(HIDDEN));
            for line in [
                format!("{name}={secret}"),
                format!("{name}: {secret}"),
                format!("{{\"{name}\":\"{secret}\"}}"),
                format!("{name}='{secret}'"),
            ] {
                let shown = one(&line);
                prop_assert!(!shown.contains(&secret), "{} shows {}", line, shown);
            }
            // A URL's own separators are not part of what it is made of.
            let encoded = secret.replace(['/', '?', '#'], "_");
            let shown = one(&format!("x://u:{encoded}@h/"));
            prop_assert!(!shown.contains(&encoded), "{}", shown);
            let args = redacted(&["x", "--password", &secret, "-p", &secret]);
            prop_assert!(!args.concat().contains(&secret));
        }

        #[test]
        fn what_names_no_secret_stays_as_it_is(args in proptest::collection::vec("[a-o0-9/. =-]{0,20}", 1..5)) {
            let mut shown = args.clone();
            arguments(&mut shown);
            prop_assert_eq!(shown, args);
        }
    }
}
