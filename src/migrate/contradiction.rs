//! `contradiction`: whether an edition's files are those that the fleet was made by, told from lineages alone.

use std::fmt;

use super::{Edition, Standing, standing};
use crate::tenant::Lineage;

/// Slugs that a message names; the others are counted.
const NAMED: usize = 5;

/// One database of the fleet that is ready, with what the catalog knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Whose it is.
    pub whose: Whose<'a>,
    /// What was applied to it.
    pub lineage: &'a Lineage,
}

/// Whose a member's database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// The ready template on this server.
    Template(&'a str),
    /// The tenant's of this slug.
    Tenant(&'a str),
}

/// How files contradict the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContradictionKind {
    /// A file that was applied is missing, or was edited or renamed, or a new one stands below it.
    Changed,
    /// They end below what was applied: an older checkout.
    Older,
}

/// Files of an edition that are not those that the fleet was made by. Nothing may be made from them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Contradiction {
    /// The edition.
    pub edition: String,
    /// How they differ.
    pub kind: ContradictionKind,
    /// The newest version of the files; 0 for none.
    pub latest: i64,
    /// The newest version of the databases that contradict them.
    pub applied: i64,
    /// The servers whose template contradicts them.
    pub templates: Vec<String>,
    /// The tenants whose databases contradict them, in the order given.
    pub tenants: Vec<String>,
    /// The first file that differs, in words, from the history of one of these databases; `None` while none was read.
    pub file: Option<String>,
}

impl std::error::Error for Contradiction {}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edition, latest, applied, .. } = self;
        match self.kind {
            ContradictionKind::Changed => {
                write!(f, "edition `{edition}`: its files are not those that the fleet was made by")?
            }
            ContradictionKind::Older => write!(
                f,
                "edition `{edition}`: its files are older than the fleet, they end at version {latest} where {applied} \
                 is applied"
            )?,
        }
        if let Some(file) = &self.file {
            write!(f, ": {file}")?;
        }
        write!(f, ". That is so for {}. Nothing of the edition was touched; ", self.members())?;
        match self.kind {
            ContradictionKind::Changed => {
                f.write_str("restore the files, or see `manybox migrate repair` where the files are right")
            }
            ContradictionKind::Older => f.write_str("use the newer files"),
        }
    }
}

impl Contradiction {
    /// The templates and tenants, a few by name.
    fn members(&self) -> String {
        let templates = self.templates.iter().map(|server| format!("the template on server `{server}`"));
        let mut members: Vec<_> = templates.collect();
        if !self.tenants.is_empty() {
            let named = self.tenants.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = match self.tenants.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            members.push(format!("{} tenant(s): {named}{more}", self.tenants.len()));
        }
        members.join(" and ")
    }
}

/// Whether the files contradict the fleet. Pure.
///
/// A database that differs alone is that tenant's matter, and must not stop the others for ever; a wrong set of files
/// differs from all databases that have come as far. So a file is taken for what was applied as soon as as many databases
/// that have it agree with it as contradict it, and these are told of at their own migration. Where more contradict, the
/// files are wrong. Of databases that are newer than the files one tenant's may be alone in that, but not a template, for
/// the next one made from these files would go back.
///
/// A database to which nothing was applied says nothing.
pub fn contradiction(edition: &Edition, members: &[Member<'_>]) -> Option<Contradiction> {
    let (mut agreeing, mut changed, mut newer) = (Vec::new(), Vec::new(), Vec::new());
    for member in members.iter().filter(|m| m.lineage.edition == edition.name) {
        match standing(edition, member.lineage) {
            Standing::Current | Standing::Behind { .. } if member.lineage.version == 0 => {}
            Standing::Current | Standing::Behind { .. } => agreeing.push(member.lineage.version),
            Standing::Divergent => changed.push(member),
            Standing::Ahead => newer.push(member),
        }
    }
    let outvoted = |version: i64| {
        let contradict = changed.iter().filter(|m| m.lineage.version <= version).count();
        agreeing.iter().filter(|agreed| **agreed >= version).count() >= contradict
    };
    let alone = newer.iter().all(|m| matches!(m.whose, Whose::Tenant(_))) && newer.len() < 2;
    let (kind, contradicting) = if changed.iter().any(|m| !outvoted(m.lineage.version)) {
        (ContradictionKind::Changed, changed)
    } else if !newer.is_empty() && (!alone || agreeing.is_empty()) {
        (ContradictionKind::Older, newer)
    } else {
        return None;
    };
    let (mut templates, mut tenants) = (Vec::new(), Vec::new());
    for member in &contradicting {
        match member.whose {
            Whose::Template(server) => templates.push(server.to_owned()),
            Whose::Tenant(slug) => tenants.push(slug.to_owned()),
        }
    }
    Some(Contradiction {
        edition: edition.name.clone(),
        kind,
        latest: edition.latest(),
        applied: contradicting.iter().map(|m| m.lineage.version).max().unwrap_or_default(),
        templates,
        tenants,
        file: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 4] = [
        ("V1__a.sql", "SELECT 1;"),
        ("V2__b.sql", "SELECT 2;"),
        ("V4__c.sql", "SELECT 4;"),
        ("V5__d.sql", "SELECT 5;"),
    ];

    fn edition(files: &[(&str, &str)]) -> Edition {
        Edition::embedded("core", files).unwrap()
    }

    /// The lineage of a database with these files up to this version.
    fn at(files: &[(&str, &str)], version: i64) -> Lineage {
        Lineage { edition: "core".to_owned(), version, history: edition(files).history_digest(version) }
    }

    /// What the files say of a template and tenants with these lineages.
    fn judge(
        files: &[(&str, &str)],
        template: Option<&Lineage>,
        tenants: &[Lineage],
    ) -> Option<Contradiction> {
        let slugs: Vec<_> = (0..tenants.len()).map(|n| format!("t{n}")).collect();
        let mut members: Vec<_> = slugs
            .iter()
            .zip(tenants)
            .map(|(slug, lineage)| Member { whose: Whose::Tenant(slug), lineage })
            .collect();
        members.extend(template.map(|lineage| Member { whose: Whose::Template("main"), lineage }));
        contradiction(&edition(files), &members)
    }

    #[test]
    fn right_files_are_agreed_with_however_far_the_fleet_has_come() {
        for (template, tenants) in [(5, [5, 4, 2]), (4, [4, 1, 0]), (1, [0, 0, 0])] {
            let tenants = tenants.map(|version| at(&FILES, version));
            assert_eq!(judge(&FILES, Some(&at(&FILES, template)), &tenants), None);
        }
        assert_eq!(judge(&FILES, None, &[]), None);
        let other = Lineage { edition: "lite".to_owned(), ..at(&FILES[..1], 1) };
        assert_eq!(judge(&FILES, None, &[other]), None, "another edition's tenants have no say");
    }

    #[test]
    fn wrong_files_are_told_by_all_who_have_come_as_far() {
        let mut edited = FILES;
        edited[1].1 = "SELECT 22;";
        let mut renamed = FILES;
        renamed[0].0 = "V1__z.sql";
        let missing: Vec<_> = FILES.iter().copied().filter(|f| !f.0.starts_with("V2")).collect();
        let below: Vec<_> = FILES.iter().copied().chain([("V3__late.sql", "SELECT 3;")]).collect();
        for files in [edited.to_vec(), renamed.to_vec(), missing, below] {
            let tenants = vec![at(&FILES, 4); 20];
            for template in [Some(at(&FILES, 4)), None] {
                let found = judge(&files, template.as_ref(), &tenants).unwrap();
                assert_eq!((found.kind, found.tenants.len()), (ContradictionKind::Changed, 20));
                assert_eq!(found.templates.len(), usize::from(template.is_some()));
                let text = found.to_string();
                assert!(text.contains("20 tenant(s): t0, t1, t2, t3, t4 and 15 more"), "{text}");
            }
            // One canary is enough: nobody else has come as far, so nobody can say that the files are right.
            let mut tenants = vec![at(&FILES, 0); 20];
            tenants.push(at(&FILES, 4));
            assert_eq!(judge(&files, None, &tenants).unwrap().tenants, ["t20"]);
        }
    }

    #[test]
    fn an_older_checkout_is_told_by_the_template_or_by_tenants() {
        let old = &FILES[..2];
        let found = judge(old, Some(&at(&FILES, 5)), &vec![at(&FILES, 2); 20]).unwrap();
        assert_eq!((found.kind, found.latest, found.applied), (ContradictionKind::Older, 2, 5));
        assert!(found.to_string().contains("they end at version 2 where 5 is applied"), "{found}");
        assert_eq!(judge(old, None, &[at(&FILES, 5), at(&FILES, 4)]).unwrap().tenants.len(), 2);
        assert_eq!(judge(old, None, &[at(&FILES, 5)]).unwrap().tenants.len(), 1);
        assert_eq!(judge(&[], Some(&at(&FILES, 5)), &[]).unwrap().kind, ContradictionKind::Older);
        // One that was brought further by itself is told of at its own migration.
        assert_eq!(judge(old, Some(&at(&FILES, 2)), &[at(&FILES, 5), at(&FILES, 2)]), None);
    }

    #[test]
    fn one_that_differs_alone_does_not_stop_the_others() {
        let own = Lineage { history: "ab".repeat(32), ..at(&FILES, 4) };
        let mut tenants = vec![at(&FILES, 4); 3];
        tenants.push(own.clone());
        assert_eq!(judge(&FILES, Some(&at(&FILES, 4)), &tenants), None);
        assert_eq!(judge(&FILES, Some(&at(&FILES, 5)), std::slice::from_ref(&own)), None);
        // It stops them only while nobody has what it has.
        assert!(judge(&FILES, Some(&at(&FILES, 2)), &[at(&FILES, 2), own.clone()]).is_some());
        // And not by being many, unless they are more than those who agree.
        tenants.extend(vec![own.clone(); 3]);
        assert_eq!(judge(&FILES, Some(&at(&FILES, 4)), &tenants), None);
        tenants.push(own);
        assert!(judge(&FILES, Some(&at(&FILES, 4)), &tenants).is_some());
        let tampered = Lineage { history: "tampered".into(), ..at(&FILES, 0) };
        assert_eq!(judge(&FILES, Some(&at(&FILES, 1)), &[tampered]), None);
    }

    #[test]
    fn a_template_that_went_wrong_is_outvoted_by_the_tenants() {
        let mut edited = FILES;
        edited[1].1 = "SELECT 22;";
        let mut tenants = vec![at(&FILES, 5); 20];
        tenants.push(at(&edited, 5));
        assert_eq!(judge(&FILES, Some(&at(&edited, 5)), &tenants), None);
        assert!(judge(&edited, Some(&at(&edited, 5)), &tenants).is_some());
    }
}
