//! Loading: the three layers joined, and every contradiction found before anything starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat};

use super::bounds::beyond;
use super::environment::{environment, misnamed};
use super::file::{miscast, unreadable};
use super::{DEFAULT_POLICY, Settings};
use crate::policy::{Api, Invalid, KEYS, Limits, Scope};
use crate::tenant::{BaseUrl, Slug};

/// Why the settings can't be used; names the file or variable, the key, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A key or a value that isn't known, in the file or the environment.
    #[error("settings: {0}\n(known keys: see `manybox config`; defaults < {1} < MANYBOX__SECTION__KEY)")]
    Value(config::ConfigError, String),
    /// A variable of the environment that sets nothing.
    #[error(
        "settings: `{0}` in the environment sets nothing: expected MANYBOX__SECTION__KEY, with two underscores each time"
    )]
    Misnamed(String),
    /// A file that is there and can't be read: not one that is missing.
    #[error("settings: `{file}` {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// Two settings that can't both hold.
    #[error("settings ({file}): {key}: {reason}")]
    Contradiction {
        /// The file that was read.
        file: String,
        /// The key at fault.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// Where the settings come from.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The settings file. Relative paths in it are relative to its folder.
    pub file: PathBuf,
}

impl Paths {
    fn folder(&self) -> &Path {
        self.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

impl Settings {
    /// Reads all three layers. A missing file counts as an empty one; one that is there and can't be read does not, for then
    /// a fleet of its own would be made beside the one that the file is about.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn load(paths: &Paths) -> Result<Self, SettingsError> {
        let name = paths.file.display().to_string();
        if let Some(variable) = misnamed() {
            return Err(SettingsError::Misnamed(variable));
        }
        if let Some(reason) = unreadable(&paths.file) {
            return Err(SettingsError::Unreadable { file: name, reason });
        }
        let file = File::from(paths.file.as_path()).format(FileFormat::Toml).required(false);
        let mut settings: Self = Config::builder()
            .add_source(file.clone())
            .add_source(environment(&file))
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|e| SettingsError::Value(e, name.clone()))?;
        if let Some((key, reason)) = miscast(&paths.file, &settings) {
            return Err(SettingsError::Contradiction { file: name, key, reason: reason.into() });
        }
        settings.complete(paths.folder());
        settings.check(&name)?;
        Ok(settings)
    }

    /// Fills in what depends on other values.
    fn complete(&mut self, folder: &Path) {
        self.tiers.entry("standard".into()).or_default();
        self.rollouts.entry(DEFAULT_POLICY.into()).or_default();
        for (name, edition) in &mut self.editions {
            let files = edition.migrations.take().unwrap_or_else(|| Path::new("migrations").join(name));
            edition.migrations = Some(folder.join(files));
            edition.demo = edition.demo.take().map(|demo| folder.join(demo));
        }
        self.keys.file = folder.join(&self.keys.file);
        self.embedded.folder = folder.join(&self.embedded.folder);
        self.listen.directory_file = folder.join(&self.listen.directory_file);
        for server in self.servers.values_mut() {
            let root = server.root_cert.take();
            // `system` is no file.
            server.root_cert =
                root.map(|root| if root == Path::new("system") { root } else { folder.join(root) });
        }
        let token_file = &mut self.listen.admin_token_file;
        *token_file = token_file.take().map(|file| folder.join(file));
        if let Some(file) = self.control.oidc.as_mut().and_then(|oidc| oidc.client_secret_file.as_mut()) {
            *file = folder.join(&*file);
        }
        for file in self.telemetry.otlp_headers_file.iter_mut().chain(&mut self.control.backups) {
            *file = folder.join(&*file);
        }
        for files in &mut self.listen.certificates {
            files.certificate = folder.join(&files.certificate);
            files.key = folder.join(&files.key);
        }
        if self.defaults.edition.is_none() && self.editions.len() == 1 {
            self.defaults.edition = self.editions.keys().next().cloned();
        }
    }

    fn check(&self, file: &str) -> Result<(), SettingsError> {
        let wrong = |key: String, reason: String| {
            Err(SettingsError::Contradiction { file: file.to_owned(), key, reason })
        };
        let servers = || {
            if self.is_embedded() {
                "`main` (the embedded one)".to_owned()
            } else {
                listed(self.servers.keys())
            }
        };
        for (key, server) in
            [("catalog.server", &self.catalog.server), ("defaults.server", &self.defaults.server)]
        {
            if !self.has_server(server) {
                return wrong(
                    key.into(),
                    format!("there is no server `{server}`; expected one of {}", servers()),
                );
            }
        }
        if !self.tiers.contains_key(&self.defaults.tier) {
            return wrong(
                "defaults.tier".into(),
                format!(
                    "there is no tier `{}`; expected one of {}",
                    self.defaults.tier,
                    listed(self.tiers.keys())
                ),
            );
        }
        if let Some(edition) = &self.defaults.edition
            && !self.editions.contains_key(edition)
        {
            return wrong(
                "defaults.edition".into(),
                format!("there is no edition `{edition}`; expected one of {}", listed(self.editions.keys())),
            );
        }
        if self.listen.base_urls.is_empty() {
            return wrong(
                "listen.base_urls".into(),
                "expected at least one template such as https://{tenant}.example.com".into(),
            );
        }
        if self.listen.http == self.listen.admin && self.listen.http.port() != 0 {
            return wrong(
                "listen.admin".into(),
                format!("is the same address as listen.http ({}); expected another port", self.listen.http),
            );
        }
        match (self.listen.https, self.listen.certificates.is_empty()) {
            (Some(_), true) => {
                return wrong(
                    "listen.certificates".into(),
                    "expected at least one, because listen.https is set".into(),
                );
            }
            (None, false) => {
                return wrong(
                    "listen.https".into(),
                    "expected an address such as 0.0.0.0:443, because listen.certificates are set".into(),
                );
            }
            _ => {}
        }
        if let Some((key, reason)) = beyond(self) {
            return wrong(key, reason);
        }
        let layers = std::iter::once(("defaults".to_owned(), &self.defaults.api))
            .chain(self.editions.iter().map(|(name, e)| (format!("editions.{name}"), &e.api)));
        for (at, api) in layers {
            if let Some(key) =
                KEYS.iter().find(|k| k.scope == Scope::Tenant && api.iter().any(|(n, _)| n == k.name))
            {
                let reason =
                    "is for one tenant only: set it in [tenants.SLUG.settings] or by `manybox tenant set`";
                return wrong(format!("{at}.api.{}", key.name), reason.into());
            }
        }
        if self.roles().is_empty() {
            return wrong("defaults.api.roles".into(), "expected at least one role".into());
        }
        for name in self.editions.keys() {
            if let Err(invalid) = self.check_roles(&self.edition_api(name)) {
                return wrong(format!("editions.{name}.api"), invalid.0);
            }
        }
        for (name, edition) in &self.editions {
            if let Some((setting, reason)) =
                edition.settings.keys().find_map(|setting| Some((setting, unsettable(setting)?)))
            {
                return wrong(format!("editions.{name}.settings.{setting}"), reason);
            }
        }
        if let Some((key, reason)) = self.control.wrong() {
            return wrong(format!("control.{key}"), reason);
        }
        if let Some((key, reason)) = self.telemetry.wrong() {
            return wrong(format!("telemetry.{key}"), reason);
        }
        for (name, policy) in &self.rollouts {
            if let Some((key, reason)) = policy.wrong() {
                return wrong(format!("rollouts.{name}.{key}"), reason);
            }
        }
        let database = &self.catalog.database;
        if database.is_empty()
            || database.len() > 40
            || !database.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return wrong(
                "catalog.database".into(),
                format!("`{database}`: expected up to 40 of a-z, 0-9 and _"),
            );
        }
        for (name, limits) in &self.tiers {
            if let Some((key, reason)) = limits.wrong() {
                return wrong(format!("tiers.{name}.{key}"), reason);
            }
        }
        let mut urls: BTreeMap<String, &String> = BTreeMap::new();
        for (slug, tenant) in &self.tenants {
            let at = |key: &str| format!("tenants.{slug}{key}");
            if let Err(invalid) = slug.parse::<Slug>() {
                return wrong(at(""), invalid.to_string());
            }
            for url in &tenant.base_urls {
                let url = match url.parse::<BaseUrl>() {
                    Ok(url) => url.to_string(),
                    Err(invalid) => return wrong(at(".base_urls"), invalid.to_string()),
                };
                if let Some(other) = urls.insert(url.clone(), slug).filter(|other| *other != slug) {
                    return wrong(at(".base_urls"), format!("{url} is declared for `{other}` as well"));
                }
            }
            match tenant.edition.as_ref().or(self.defaults.edition.as_ref()) {
                None => {
                    return wrong(
                        at(".edition"),
                        format!(
                            "is missing and defaults.edition is not set; expected one of {}",
                            listed(self.editions.keys())
                        ),
                    );
                }
                Some(edition) if !self.editions.contains_key(edition) => {
                    return wrong(
                        at(".edition"),
                        format!(
                            "there is no edition `{edition}`; expected one of {}",
                            listed(self.editions.keys())
                        ),
                    );
                }
                Some(_) => {}
            }
            let edition = tenant.edition.as_ref().or(self.defaults.edition.as_ref());
            let (_, api) = tenant
                .settings
                .applied_to(Limits::default(), self.edition_api(edition.map_or("", String::as_str)));
            if let Err(invalid) = self.check_roles(&api) {
                return wrong(at(".settings"), invalid.0);
            }
            if let Some(tier) = &tenant.tier
                && !self.tiers.contains_key(tier)
            {
                return wrong(
                    at(".tier"),
                    format!("there is no tier `{tier}`; expected one of {}", listed(self.tiers.keys())),
                );
            }
            if let Some(server) = &tenant.server
                && !self.has_server(server)
            {
                return wrong(
                    at(".server"),
                    format!("there is no server `{server}`; expected one of {}", servers()),
                );
            }
        }
        Ok(())
    }

    /// Whether the roles of an API are among those that the tenants' logins may become.
    ///
    /// # Errors
    /// Names the role that is not.
    pub fn check_roles(&self, api: &Api) -> Result<(), Invalid> {
        let all = self.roles();
        match api.roles.iter().chain(&api.db_anon_role).find(|role| !all.contains(role)) {
            None => Ok(()),
            Some(role) => Err(Invalid(format!(
                "`{role}` is none of the API roles {} (`defaults.api.roles`)",
                listed(all.iter())
            ))),
        }
    }

    /// The settings as TOML, with secrets masked.
    ///
    /// # Errors
    /// When a value has no TOML form, which none of ours lacks.
    pub fn masked_toml(&self) -> Result<String, toml::ser::Error> {
        let mut shown = self.clone();
        shown.keys.master = shown.keys.master.map(|_| "***".into());
        for server in shown.servers.values_mut() {
            server.url = mask_url(&server.url);
        }
        toml::to_string_pretty(&shown)
    }
}

/// `postgres://user:secret@host/db` and `password=secret` with the secret replaced. What can't be taken apart is
/// masked whole.
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let authority = match authority.rsplit_once('@') {
        Some((userinfo, hosts)) => {
            let user = userinfo.split(':').next().unwrap_or_default();
            if userinfo.contains(':') { format!("{user}:***@{hosts}") } else { format!("{user}@{hosts}") }
        }
        None => authority.to_owned(),
    };
    if path.contains("password=") {
        format!("{scheme}://{authority}/***")
    } else {
        format!("{scheme}://{authority}{path}")
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.map(|n| format!("`{n}`")).collect();
    if names.is_empty() { "(none is set)".into() } else { names.join(", ") }
}

/// Why an edition's files can't run with a setting of this name.
fn unsettable(setting: &str) -> Option<String> {
    const OURS: [&str; 7] = [
        "role",
        "session_authorization",
        "lock_timeout",
        "statement_timeout",
        "standard_conforming_strings",
        "client_encoding",
        "client_min_messages",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if !setting.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !setting.chars().all(plain) {
        return Some("is not a setting's name; expected letters, digits, `_` and `.`".into());
    }
    let ours = OURS.iter().find(|ours| setting.eq_ignore_ascii_case(ours))?;
    Some(format!(
        "is set by manybox for every file; timeouts are in [migrate], `{ours}` can't be an edition's"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tenants.toml");
        std::fs::write(&file, text).unwrap();
        Settings::load(&Paths { file })
    }

    #[test]
    fn an_empty_file_is_enough() {
        let settings = load("").unwrap();
        assert!(settings.is_embedded());
        assert!(settings.tiers.contains_key("standard"));
    }

    #[test]
    fn an_address_is_a_network_of_its_own() {
        let settings = load("[listen]\ntrusted_proxies = ['10.0.0.7', 'fd00::/8']").unwrap();
        assert_eq!(settings.listen.trusted_proxies[0].to_string(), "10.0.0.7/32");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, key, expected) in [
            ("[listen]\nhtp = 1", "htp", "http"),
            ("[listen]\nhttp = 1", "listen.http", "expected"),
            ("[tiers.a]\nmax_connections = \"many\"", "max_connections", "expected"),
            ("[tiers.a]\nmax_connections = true", "tiers.a.max_connections", "a whole number"),
            ("[migrate]\njobs = 2.5", "migrate.jobs", "a whole number"),
            ("[telemetry]\nsample_ratio = true", "telemetry.sample_ratio", "a number"),
            ("[editions.a]\ntemporary_tables = 1", "editions.a.temporary_tables", "true or false"),
            ("[tenants.acme]", "tenants.acme.edition", "(none is set)"),
            ("[listen]\ntrusted_proxies = ['proxy']", "listen.trusted_proxies", "10.0.0.0/8, or an address"),
            (
                "[editions.a]\n[tenants.b]\nbase_urls = ['http://x.example']\n[tenants.c]\nbase_urls = ['http://X.example']",
                "tenants.c.base_urls",
                "is declared for `b` as well",
            ),
            ("[editions.a]\n[tenants.acme]\nedition = \"b\"", "tenants.acme.edition", "`a`"),
            ("[editions.a]\n[tenants.Acme]", "tenants.Acme", "not a slug"),
            ("[tiers.a]\nmax_body = '1XB'", "max_body", "1MB"),
            ("[tiers.a]\nmax_body = '2GB'", "tiers.a.max_body", "1GB"),
            ("[tiers.a]\nstatement_timeout = '30 days'", "tiers.a.statement_timeout", "24 days"),
            ("[tiers.a]\nmax_connections = 262144", "tiers.a.max_connections", "262143 at most"),
            ("[tiers.a]\nmax_requests_per_second = 0", "tiers.a.max_requests_per_second", "1 or more"),
            ("[listen]\nhttps = \"0.0.0.0:443\"", "listen.certificates", "at least one"),
            ("[listen]\nhttps = \"443\"", "listen.https", "127.0.0.1:8080"),
            ("[[listen.certificates]]\ncertificate = \"a\"\nkey = \"b\"", "listen.https", "0.0.0.0:443"),
            ("[listen.clients]\nmax_per_tenant = 0", "listen.clients.max_per_tenant", "1 or more"),
            ("[listen.clients]\nmax_buffered = '9000TB'", "listen.clients.max_buffered", "at most"),
            ("[rollouts.a]\nstep_timeout = '90000y'", "rollouts.a.step_timeout", "24 days at most"),
            ("[log]\nformat = \"xml\"", "log.format", "`text` or `json`"),
            ("[listen]\naccess_log = \"some\"", "listen.access_log", "`off`, `errors`, `all`"),
            ("[rollouts.a]\non_error = \"cry\"", "on_error", "`quarantine`"),
            ("[tiers.a]\nstatement_timeout = '100us'", "tiers.a.statement_timeout", "1ms or more"),
            (
                "[editions.a]\n[tenants.acme.settings]\nmax_connections = 0",
                "max_connections",
                "a number from 1",
            ),
            ("[defaults]\nserver = \"x\"", "defaults.server", "`main`"),
            ("[listen]\nbase_urls = [\"http://x.com\"]", "listen.base_urls", "{tenant}"),
            ("[defaults.api]\nschemas = [\"a\"]", "defaults.api", "did you mean `db_schemas`?"),
            ("[editions.a.api]\ndb_plan_enabled = 3", "db_plan_enabled", "true or false"),
            ("[editions.a.settings]\nLock_Timeout = \"0\"", "editions.a.settings", "in [migrate]"),
            ("[editions.a.settings]\n\"a b\" = \"0\"", "editions.a.settings.a b", "a setting's name"),
            ("[editions.a.api]\nmax_rows = 3", "editions.a.api.max_rows", "one tenant only"),
            ("[editions.a.api]\ndb_anon_role = \"x\"", "editions.a.api", "`authenticated`"),
            ("[editions.a]\n[tenants.b.settings]\nroles = [\"x\"]", "tenants.b.settings", "`authenticated`"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains(expected) && error.contains("tenants.toml"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn tenants_over_editions_over_defaults() {
        let settings = load(
            "[defaults.api]\ndb_schemas = \"api\"\ndb_anon_role = \"none\"\n[editions.a.api]\ndb_schemas = [\"x\", \"y\"]\n\
             [editions.b]\n[tenants.t]\nedition = \"a\"\n[tenants.t.settings]\ndb_aggregates_enabled = true\n\
             app_settings = { Host = \"h\" }",
        )
        .unwrap();
        assert_eq!(settings.edition_api("a").db_schemas, ["x", "y"]);
        assert_eq!(settings.edition_api("b").db_schemas, ["api"]);
        assert_eq!(settings.edition_api("a").db_anon_role, None);
        let (_, api) =
            settings.tenants["t"].settings.applied_to(Limits::default(), settings.edition_api("a"));
        assert!(api.db_aggregates_enabled && api.app_settings["Host"] == "h", "{api:?}");
    }

    #[test]
    fn no_secret_is_shown() {
        let secret = "hunter2hunter2hunter2hunter2hunter2";
        let mut settings = load(&format!(
            "[servers.main]\nurl = \"postgres://a:hunter2@h:1/postgres\"\n[editions.a]\n[tenants.t.settings]\njwt_secret = \"{secret}\""
        ))
        .unwrap();
        assert_eq!(settings.tenants["t"].settings.jwt_secret().unwrap().expose(), secret);
        settings.keys.master = Some("1:hunter2".into());
        let header = ("authorization".to_owned(), crate::policy::Secret::new("Bearer hunter2"));
        settings.telemetry.otlp_headers.extend([header]);
        settings.listen.admin_token = Some(crate::policy::Secret::new(secret));
        assert!(!format!("{:?}", settings.listen).contains("hunter2"));
        let shown = settings.masked_toml().unwrap();
        assert!(!shown.contains("hunter2") && shown.contains("postgres://a:***@h:1/postgres"), "{shown}");
    }
}
