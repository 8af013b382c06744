//! `passwd(5)` and `group(5)`, read strictly: a line that is not well-formed is skipped.
//!
//! A line is split into one field more than it may have, and no further, whatever it holds.

/// Content of a `passwd(5)`.
#[derive(Clone, Copy)]
pub(super) struct PasswdFile<'a>(&'a str);

/// What one line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PasswdEntry<'a> {
    pub(super) name: &'a str,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a str,
}

/// Content of a `group(5)`.
#[derive(Clone, Copy)]
pub(super) struct GroupFile<'a>(&'a str);

/// What one line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupEntry<'a> {
    pub(super) name: &'a str,
    pub(super) gid: u32,
    members: &'a str,
}

impl<'a> PasswdFile<'a> {
    pub(super) fn new(content: &'a str) -> Self {
        Self(content)
    }

    pub(super) fn entries(self) -> impl Iterator<Item = PasswdEntry<'a>> {
        self.0.lines().filter_map(|line| {
            let fields: Vec<&str> = line.splitn(8, ':').collect();
            let &[name, _password, uid, gid, _gecos, home, _shell] = fields.as_slice() else {
                return None;
            };
            let (uid, gid) = (parse_id(uid)?, parse_id(gid)?);
            is_name(name).then_some(PasswdEntry { name, uid, gid, home })
        })
    }
}

impl<'a> GroupFile<'a> {
    pub(super) fn new(content: &'a str) -> Self {
        Self(content)
    }

    pub(super) fn entries(self) -> impl Iterator<Item = GroupEntry<'a>> {
        self.0.lines().filter_map(|line| {
            let fields: Vec<&str> = line.splitn(5, ':').collect();
            let &[name, _password, gid, members] = fields.as_slice() else {
                return None;
            };
            let gid = parse_id(gid)?;
            is_name(name).then_some(GroupEntry { name, gid, members })
        })
    }

    /// The groups that list `user`.
    pub(super) fn of_member(self, user: &str) -> impl Iterator<Item = u32> {
        self.entries()
            .filter(move |entry| entry.members.split(',').any(|member| member.trim() == user))
            .map(|entry| entry.gid)
    }
}

/// `+` and `-` begin directives of the name service switch, `#` begins a comment.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(['+', '-', '#']) && !is_digits(text)
}

/// Whether a text is meant as a number, in range or not.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A uid or gid in decimal digits, 0 to 2³¹−1: larger ones wrap around in some programs.
pub(super) fn parse_id(text: &str) -> Option<u32> {
    // `parse` alone would take a leading `+`.
    let id = is_digits(text).then(|| text.parse::<i32>().ok()).flatten();
    id.and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_only_when_all_of_it_is_well_formed() {
        let content = "root:x:0:0:root:/root:/bin/sh\nshort:x:1:1\n#c:x:1:1::/:/\n+nis:x:1:1::/:/\n\
                       big:x:4294967296:0::/:/\nsign:x:+1:0::/:/\n17:x:0:0::/:/\n:x:0:0::/:/\nlong:x:1:1::/:/:/\n\
                       last:x:2:3::/home:";
        let names: Vec<_> = PasswdFile::new(content).entries().map(|entry| entry.name).collect();
        assert_eq!(names, ["root", "last"]);
    }

    #[test]
    fn groups_by_member() {
        let content = "a:x:1:u,v\nb:x:2:uu\nc:x:3:v, u\nd:x:-4:u\ne:x:5\nf:x:6:";
        let gids: Vec<_> = GroupFile::new(content).of_member("u").collect();
        assert_eq!(gids, [1, 3]);
    }

    #[test]
    fn ids_are_digits_and_do_not_wrap() {
        assert_eq!(
            (parse_id("0"), parse_id("0007"), parse_id("2147483647")),
            (Some(0), Some(7), Some(2_147_483_647))
        );
        for bad in ["", "-1", "+1", " 1", "1 ", "0x1", "2147483648", "4294967296", "٣"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
