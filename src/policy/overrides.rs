//! `Overrides`: what an edition or a tenant has different, by key; and the settings that come of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keys::{self, APP, Effective, JWT_SECRET};
use super::secret::MASK;
use super::{Api, Invalid, Limits, Secret};

/// Values by key, each checked, as they are written. What has no value comes from the layer below.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    values: BTreeMap<String, String>,
    /// Apart, so that it can be sealed and never stands among what is stored or shown.
    jwt_secret: Option<Secret>,
}

impl Overrides {
    /// Sets a key; an empty value takes the key's own value away.
    ///
    /// # Errors
    /// When the key isn't known (the error names what may have been meant, and all there are) or the value is not of
    /// its form.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Invalid> {
        keys::find(key)?;
        if !value.is_empty() {
            if value == MASK {
                return Err(Invalid(format!("`{key}`: {MASK} stands for a secret; give the secret itself")));
            }
            let mut scratch = Effective { limits: Limits::default(), api: Api::default() };
            keys::read(key, value, &mut scratch)?;
        }
        match (key == JWT_SECRET, value.is_empty()) {
            (true, true) => self.jwt_secret = None,
            (true, false) => self.jwt_secret = Some(Secret::new(value)),
            (false, true) => drop(self.values.remove(key)),
            (false, false) => drop(self.values.insert(key.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// The value of a key as it is written; never that of a secret.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// All keys and their values; the secret's is masked.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let secret = self.jwt_secret.as_ref().map(|_| (JWT_SECRET, MASK));
        self.iter_stored().chain(secret)
    }

    /// The token secret that was given in the clear.
    pub fn jwt_secret(&self) -> Option<&Secret> {
        self.jwt_secret.as_ref()
    }

    /// The same with this token secret instead of its own.
    #[must_use]
    pub fn with_jwt_secret(mut self, secret: Option<Secret>) -> Self {
        self.jwt_secret = secret;
        self
    }

    /// Lays the values over those of the layer below. The token secret stays where it is: the catalog holds it
    /// sealed, and only what checks tokens opens it.
    pub fn applied_to(&self, limits: Limits, api: Api) -> (Limits, Api) {
        let mut effective = Effective { limits, api };
        for (key, value) in &self.values {
            // Checked when they were set; what a newer program wrote is [`Overrides::left_out`].
            let _ = keys::read(key, value, &mut effective);
        }
        (effective.limits, effective.api)
    }

    /// The keys whose values this program doesn't understand, and why: another version of it wrote them.
    pub fn left_out(&self) -> Vec<(&str, Invalid)> {
        let mut scratch = Effective { limits: Limits::default(), api: Api::default() };
        self.iter_stored()
            .filter_map(|(key, value)| keys::read(key, value, &mut scratch).err().map(|why| (key, why)))
            .collect()
    }

    fn iter_stored(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Longest value of an in-database setting, in bytes. Those of any use are far shorter.
pub const MAX_IN_DATABASE_VALUE: usize = 64 * 1024;

/// In-database configuration laid over other settings.
#[derive(Debug, Clone)]
pub struct InDatabase {
    /// The settings with what could be read on top. Not to be served while anything was refused: what was meant may have
    /// been stricter.
    pub api: Api,
    /// The settings that can't be obeyed, by name with `pgrst.` in front, and why.
    pub refused: Vec<(String, Invalid)>,
    /// Names below `pgrst.` that set nothing: misspelled, or of PostgREST's process.
    pub unused: Vec<String>,
}

impl Api {
    /// Lays in-database configuration (`ALTER ROLE login SET pgrst.NAME = …`) over these settings, by PostgREST's
    /// names, with or without `pgrst.` in front. As in PostgREST it wins over every other place, and an empty value is
    /// PostgREST's own default, not what another place says: `db_anon_role` without a role refuses anonymous requests.
    pub fn with_in_database(&self, settings: &BTreeMap<String, String>) -> InDatabase {
        let mut effective = Effective { limits: Limits::default(), api: self.clone() };
        let default = Effective { limits: Limits::default(), api: Self::adopted() };
        let (mut refused, mut unused) = (Vec::new(), Vec::new());
        for (name, value) in settings {
            let bare = name.strip_prefix("pgrst.").unwrap_or(name);
            let read = if value.len() > MAX_IN_DATABASE_VALUE {
                Err(Invalid(format!("`{bare}`: its value is longer than {MAX_IN_DATABASE_VALUE} bytes")))
            } else {
                match keys::find(bare) {
                    Ok(Some(key)) if key.in_database && value.is_empty() => match bare {
                        JWT_SECRET => Err(Invalid(format!(
                            "`{bare}`: is empty; RESET it, and `manybox tenant set {JWT_SECRET}=` takes away the tenant's"
                        ))),
                        // The one that PostgREST takes empty as such.
                        "db_extra_search_path" => keys::read(bare, keys::NONE, &mut effective),
                        _ => keys::read(bare, &key.show(&default), &mut effective),
                    },
                    Ok(Some(key)) if key.in_database => keys::read(bare, value, &mut effective),
                    Ok(None) => keys::read(bare, value, &mut effective),
                    Err(invalid) if bare.starts_with(APP) => Err(invalid),
                    _ => {
                        unused.push(name.clone());
                        continue;
                    }
                }
            };
            if let Err(invalid) = read {
                refused.push((format!("pgrst.{bare}"), invalid));
            }
        }
        InDatabase { api: effective.api, refused, unused }
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Overrides {
    /// A secret is masked, and the mask is refused where it is read: nothing stores it by mistake.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// What a settings file may have for a value.
#[derive(Deserialize)]
#[serde(untagged)]
enum SettingValue {
    Switch(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, SettingValue>),
}

impl SettingValue {
    fn text(self) -> Option<String> {
        match self {
            Self::Switch(value) => Some(value.to_string()),
            Self::Number(value) => Some(value.to_string()),
            Self::Text(value) => Some(value),
            Self::List(names) if names.is_empty() => Some("none".into()),
            Self::List(names) => Some(names.join(",")),
            Self::Map(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Overrides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut overrides = Self::default();
        let mut set = |key: &str, value: SettingValue| {
            let value = value.text().ok_or_else(|| Invalid(format!("`{key}`: expected a value")))?;
            overrides.set(key, &value)
        };
        for (key, value) in BTreeMap::<String, SettingValue>::deserialize(deserializer)? {
            match value {
                SettingValue::Map(settings) if key == "app_settings" => {
                    for (name, value) in settings {
                        set(&format!("{APP}{name}"), value).map_err(D::Error::custom)?;
                    }
                }
                value => set(&key, value).map_err(D::Error::custom)?,
            }
        }
        Ok(overrides)
    }
}

/// Overrides as the catalog holds them. Programs of several versions work on one catalog while a fleet is upgraded: what
/// this one doesn't understand is kept, so that it is still there when the tenant is written back, and has no effect.
/// What operators write is read as [`Overrides`], which refuses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored(pub Overrides);

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut overrides = Overrides::default();
        for (key, value) in BTreeMap::<String, String>::deserialize(deserializer)? {
            // A token secret never stands there in the clear.
            if overrides.set(&key, &value).is_err() && key != JWT_SECRET {
                overrides.values.insert(key, value);
            }
        }
        Ok(Self(overrides))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{KEYS, Scope};
    use super::*;

    fn over(overrides: &Overrides) -> Effective {
        let (limits, api) = overrides.applied_to(Limits::default(), Api::default());
        Effective { limits, api }
    }

    #[test]
    fn what_a_newer_program_stored_is_kept_and_has_no_effect() {
        let json = r#"{"db_max_rows":"7","from_tomorrow":"x","openapi_mode":"holographic"}"#;
        let refused = serde_json::from_str::<Overrides>(json).unwrap_err().to_string();
        assert!(refused.contains("from_tomorrow"), "{refused}");
        let Stored(overrides) = serde_json::from_str(json).unwrap();
        let left_out: Vec<_> = overrides.left_out().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left_out, ["from_tomorrow", "openapi_mode"]);
        let mut known = Overrides::default();
        known.set("db_max_rows", "7").unwrap();
        assert_eq!(over(&overrides), over(&known));
        // Written back, it is whole.
        assert_eq!(serde_json::to_string(&overrides).unwrap(), json);
    }

    #[test]
    fn every_key_reads_what_it_shows() {
        let defaults = over(&Overrides::default());
        for key in KEYS {
            if key.name == JWT_SECRET {
                continue;
            }
            let shown = key.show(&defaults);
            let mut overrides = Overrides::default();
            overrides.set(key.name, &shown).unwrap();
            assert_eq!(over(&overrides), defaults, "{}", key.name);
        }
        assert!(KEYS.iter().all(|k| k.name != JWT_SECRET || k.scope == Scope::Tenant));
    }

    #[test]
    fn values_change_what_they_name() {
        let mut overrides = Overrides::default();
        for (key, value) in [
            ("db_schemas", "api, public"),
            ("db_anon_role", "none"),
            ("db_extra_search_path", "none"),
            ("db_max_rows", "5"),
            ("max_rows", "100"),
            ("db_tx_end", "rollback-allow-override"),
            ("db_pre_request", "test.switch_role"),
            ("server_cors_allowed_origins", "https://a.test,http://b.test:8080"),
            ("app.settings.host", "localhost"),
            ("statement_timeout", "3s"),
        ] {
            overrides.set(key, value).unwrap();
        }
        let Effective { limits, api } = over(&overrides);
        assert_eq!(api.db_schemas, ["api", "public"]);
        assert_eq!((api.db_anon_role.clone(), api.db_extra_search_path.len()), (None, 0));
        assert_eq!(api.max_rows(&limits), Some(5));
        assert!(api.db_tx_end.rolls_back() && api.db_tx_end.allows_override());
        assert_eq!(api.db_pre_request.unwrap().schema.as_deref(), Some("test"));
        assert_eq!(api.app_settings["host"], "localhost");
        overrides.set("db_max_rows", "").unwrap();
        assert_eq!(over(&overrides).api.db_max_rows, None);
    }

    #[test]
    fn mistakes_are_named() {
        for (key, value, expected) in [
            ("db_schema", "x", "did you mean `db_schemas`?"),
            ("schemas", "x", "did you mean `db_schemas`?"),
            ("anon_role", "x", "did you mean `db_anon_role`?"),
            ("frobnicate", "x", "there are db_schemas, "),
            ("db_schemas", "a,,b", "is not names of schemas"),
            ("db_schemas", "pg_catalog", "pg_catalog"),
            ("db_plan_enabled", "yes", "true or false"),
            ("db_hoisted_tx_settings", "role", "not role"),
            ("db_hoisted_tx_settings", "work_mem,Request.jwt.claims", "not role"),
            ("db_pre_request", "a.b.c", "a function"),
            ("server_cors_allowed_origins", "*", "origins such as"),
            ("jwt_secret", "short", "32 characters"),
            ("jwt_role_claim_key", "role", "a JSON Path"),
            ("jwt_secret", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA", "a PEM file"),
            ("max_connections", "0", "a number from 1"),
            ("app.settings.a'b", "x", "letters, digits"),
        ] {
            let error = Overrides::default().set(key, value).unwrap_err().0;
            assert!(error.contains(expected) && error.contains(key), "{key}={value}: {error}");
            assert!(key != "jwt_secret" || !error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_secret_is_neither_shown_nor_stored() {
        let mut overrides = Overrides::default();
        overrides.set("jwt_secret", "reallyreallyreallyreallyverysafe").unwrap();
        let (json, debug) = (serde_json::to_string(&overrides).unwrap(), format!("{overrides:?}"));
        assert!(!json.contains("really") && !debug.contains("really"), "{json} {debug}");
        assert!(serde_json::from_str::<Overrides>(&json).is_err(), "a mask is no secret");
        let stored = overrides.with_jwt_secret(None);
        assert_eq!(serde_json::to_string(&stored).unwrap(), "{}");
    }

    #[test]
    fn in_database_configuration_wins_by_its_own_names() {
        let settings = [
            ("pgrst.db_schemas", "test, tenant1"),
            ("pgrst.db_extra_search_path", ""),
            ("pgrst.db_max_rows", "1000"),
            ("pgrst.openapi_mode", "wrong"),
            ("pgrst.roles", "postgres"),
            ("pgrst.max_connections", "1000"),
            ("pgrst.app.settings.x", "y"),
            ("pgrst.jwt_secret", "reallyreallyreallyreallyverysafe"),
            ("jwt_secret", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3"),
            ("pgrst.db_pool", "3"),
        ];
        let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let InDatabase { api, refused, unused } = Api::adopted().with_in_database(&settings);
        let names: Vec<_> = refused.iter().map(|(name, _)| name.as_str()).collect();
        // A public key is no secret: it closes the API, too.
        assert_eq!(names, ["pgrst.jwt_secret", "pgrst.openapi_mode"]);
        assert_eq!(unused, ["pgrst.db_pool", "pgrst.max_connections", "pgrst.roles"]);
        assert_eq!(api.db_schemas, ["test", "tenant1"]);
        assert_eq!((api.db_extra_search_path.len(), api.db_max_rows), (0, Some(1000)));
        assert_eq!(api.openapi_mode, Api::adopted().openapi_mode);
        assert!(api.roles.is_empty() && api.app_settings["x"] == "y");
        assert_eq!(api.jwt_secret, Some(Secret::new("reallyreallyreallyreallyverysafe")));
    }

    #[test]
    fn what_can_not_be_obeyed_in_a_database_is_named() {
        let refused = |name: &str, value: &str| {
            let settings = [(format!("pgrst.{name}"), value.to_owned())].into();
            let found = Api::adopted().with_in_database(&settings);
            assert!(found.unused.is_empty(), "{name}");
            found.refused.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let long = "x".repeat(MAX_IN_DATABASE_VALUE + 1);
        for (name, value) in [
            ("db_pre_request", r#""api"."gate""#),
            ("db_pre_request", r#"api."gate""#),
            ("db_pre_request", "app.api.gate"),
            ("db_pre_request", "api."),
            ("db_schemas", "api,,b"),
            ("db_schemas", "pg_catalog"),
            ("db_max_rows", "many"),
            ("db_plan_enabled", "perhaps"),
            ("db_hoisted_tx_settings", "role"),
            ("server_cors_allowed_origins", "a.test"),
            ("jwt_secret", "short"),
            ("jwt_secret", ""),
            ("jwt_aud", &long),
            ("app.settings.a'b", "x"),
        ] {
            assert_eq!(refused(name, value), [format!("pgrst.{name}")], "{value:.20}");
        }
        for (name, value) in
            [("db_pre_request", "api.gate"), ("db_plan_enabled", "TRUE"), ("app.settings.x", "")]
        {
            assert_eq!(refused(name, value), [""; 0], "{name}");
        }
    }

    #[test]
    fn an_empty_value_in_a_database_is_postgrests_default() {
        let mut given = Overrides::default();
        for (key, value) in [
            ("db_anon_role", "web"),
            ("db_pre_request", "api.gate"),
            ("db_max_rows", "5"),
            ("db_plan_enabled", "true"),
        ] {
            given.set(key, value).unwrap();
        }
        let (_, api) = given.applied_to(Limits::default(), Api::adopted());
        let empty = ["db_anon_role", "db_pre_request", "db_max_rows", "db_plan_enabled"];
        let found = api.with_in_database(&empty.map(|name| (format!("pgrst.{name}"), String::new())).into());
        assert_eq!((found.api, found.refused.len()), (Api::adopted(), 0));
    }
}
