//! Which interfaces are meant: names with `*` and `?`, and those to leave out.

/// Whether a list of patterns means this name: one of them matches, and none that begins with `-`.
pub(super) fn means(patterns: &[String], name: &str) -> bool {
    let excluded = patterns.iter().filter_map(|pattern| pattern.strip_prefix('-'));
    let mut included = patterns.iter().filter(|pattern| !pattern.starts_with('-'));
    included.any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
        && !excluded.into_iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
}

/// `*` stands for any characters, `?` for one. Goes back to the last `*` only, so the time is bounded by the product of
/// the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, in_name));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((after, from)) = retry else { return false };
                retry = Some((after, from + 1));
                (at, in_name) = (after, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|&pattern| pattern.to_owned()).collect()
    }

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        for (pattern, name) in
            [("eth*", "eth0"), ("eth*", "eth"), ("*", "x"), ("e*h?", "eth0"), ("*0*", "a0b"), ("**a", "bca")]
        {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("eth*", "veth0"), ("eth?", "eth"), ("", "a"), ("a", ""), ("*ab", "abc")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_left_out_is_left_out_wherever_it_stands_in_the_list() {
        let patterns = list(&["-*.*", "eth*", "-eth9"]);
        assert!(means(&patterns, "eth0"));
        assert!(!means(&patterns, "eth0.5"));
        assert!(!means(&patterns, "eth9"));
        assert!(!means(&list(&["-eth0"]), "eth1"), "a list of exceptions alone means nothing");
        assert!(!means(&[], "eth0"));
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(2000).as_bytes()));
    }
}
