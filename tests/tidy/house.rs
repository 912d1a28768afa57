//! The source as the rules see it: every file parsed, and each path in its code followed to what it names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Ident, Literal, Spacing, TokenStream, TokenTree};
use syn::visit::Visit;
use syn::{Item, UseTree};

/// The path of a module or an item, from the crate's root: `["rest", "plan"]`.
pub(crate) type Names = Vec<String>;

/// One file of the source.
pub(crate) struct File {
    /// Its path below `src`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Its place among the modules; empty for the crate's root.
    pub(crate) module: Names,
    /// Imported names, and the paths that they stand for.
    imports: BTreeMap<String, Names>,
    /// Modules that it declares, without those for tests.
    children: BTreeSet<String>,
    /// The names of its own items.
    items: BTreeSet<String>,
    /// What its code names.
    mentions: Vec<Mention>,
    /// What the checker could not follow, which is therefore not allowed.
    pub(crate) opaque: Vec<String>,
}

const IMPORT: &str = "use";
const IMPL: &str = "impl";

/// A path as it stands in the code.
struct Mention {
    /// The item of the file that it stands in; [`IMPORT`] or [`IMPL`], which nothing can name, for what is none.
    item: String,
    path: Names,
    line: usize,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Another crate.
    Crate(String),
    /// A module of this one, and an item in it; empty for the module itself.
    Item(Names, String),
}

/// One place that names another.
pub(crate) struct Reference<'a> {
    pub(crate) file: &'a File,
    /// The item of the file that it stands in, [`IMPORT`] or [`IMPL`].
    pub(crate) item: &'a str,
    pub(crate) line: usize,
    /// What is written there.
    pub(crate) named: Target,
    /// The same, seen through re-exports: where the thing is made.
    pub(crate) meant: Target,
}

/// All files, by their module.
pub(crate) struct House {
    files: BTreeMap<Names, File>,
    crates: BTreeSet<String>,
}

impl House {
    /// Reads the source below a folder. `crates` are the dependencies, by the names that code has for them.
    pub(crate) fn read(root: &Path, crates: BTreeSet<String>) -> Self {
        let mut texts = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let below = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    texts.push((below, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        Self::parse(texts, crates)
    }

    /// Parses files, given by their path below `src` and their text.
    pub(crate) fn parse(texts: impl IntoIterator<Item = (String, String)>, crates: BTreeSet<String>) -> Self {
        let files = texts.into_iter().map(|(path, text)| File::parse(path, text));
        Self { files: files.map(|file| (file.module.clone(), file)).collect(), crates }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        self.files.values()
    }

    /// Everything that code outside of tests names, in this crate and others.
    pub(crate) fn references(&self) -> Vec<Reference<'_>> {
        let mut found = Vec::new();
        for file in self.files().filter(|file| self.is_code(file)) {
            for Mention { item, path, line } in &file.mentions {
                // One name alone is a crate in an import only; elsewhere it may be a variable of that name.
                let is_crate = |target: &Target| matches!(target, Target::Crate(_));
                let is_variable = |target: &Target| is_crate(target) && path.len() == 1 && item != IMPORT;
                if let Some(named) = self.resolve(file, path, 0).filter(|target| !is_variable(target)) {
                    let meant = self.see_through(named.clone(), 0);
                    found.push(Reference { file, item, line: *line, named, meant });
                }
            }
        }
        found
    }

    /// Whether a file is more than a test: its parents declare it outside of `#[cfg(test)]`.
    pub(crate) fn is_code(&self, file: &File) -> bool {
        (1..file.module.len()).all(|depth| {
            let parent = self.files.get(&file.module[..depth]);
            parent.is_none_or(|parent| parent.children.contains(&file.module[depth]))
        })
    }

    fn resolve(&self, file: &File, path: &[String], depth: usize) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        // An import may begin with a name that another import brought, but not for ever.
        if depth > 8 {
            return None;
        }
        match first.as_str() {
            "crate" => Some(self.locate(rest.to_vec())),
            "self" => Some(self.locate([&file.module, rest].concat())),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                let parent = &file.module[..file.module.len().checked_sub(ups)?];
                Some(self.locate([parent, &path[ups..]].concat()))
            }
            // A global path: `::serde::Serialize`.
            "" => Some(Target::Crate(rest.first()?.clone())),
            name => {
                let import = file.imports.get(name).filter(|import| import[0] != *name);
                if let Some(import) = import {
                    self.resolve(file, &[import, rest].concat(), depth + 1)
                } else if file.children.contains(name) && !rest.is_empty() {
                    Some(self.locate([&file.module, path].concat()))
                } else if file.items.contains(name) {
                    Some(Target::Item(file.module.clone(), name.to_owned()))
                } else {
                    self.crates.contains(name).then(|| Target::Crate(name.to_owned()))
                }
            }
        }
    }

    /// Splits a path from the root into the deepest module on it and the item behind that.
    fn locate(&self, path: Names) -> Target {
        let depth = (0..=path.len()).rev().find(|depth| self.files.contains_key(&path[..*depth]));
        let depth = depth.unwrap_or_default();
        Target::Item(path[..depth].to_vec(), path.get(depth).cloned().unwrap_or_default())
    }

    /// Follows re-exports to the module that has the item as its own.
    fn see_through(&self, target: Target, depth: usize) -> Target {
        if let Target::Item(module, item) = &target
            && let Some(file) = self.files.get(module)
            && let Some(import) = file.imports.get(item)
            && let Some(next) = self.resolve(file, import, depth)
            && depth < 8
            && matches!(next, Target::Item(..))
        {
            return self.see_through(next, depth + 1);
        }
        target
    }
}

impl File {
    fn parse(path: String, text: String) -> Self {
        let module = Path::new(&path).with_extension("");
        let mut module: Names = module.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        if module == ["lib"] {
            module.clear();
        }
        let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
        let parsed: syn::File = syn::parse2(without_tests(tokens)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut file = Self {
            path,
            text,
            module,
            imports: BTreeMap::new(),
            children: BTreeSet::new(),
            items: BTreeSet::new(),
            mentions: Vec::new(),
            opaque: Vec::new(),
        };
        let mut reader = Reader { file: &mut file, item: IMPL.to_owned() };
        for attribute in &parsed.attrs {
            reader.visit_attribute(attribute);
        }
        for item in &parsed.items {
            let name = name(item);
            reader.file.items.extend(name.clone());
            reader.item = name.unwrap_or_else(|| IMPL.to_owned());
            reader.visit_item(item);
        }
        file
    }
}

/// The name by which other code reaches an item. An `impl` has none: other code names the type that it is for, and that
/// doesn't make it depend on what the implementation needs.
fn name(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// The tokens of a file without what stands behind `#[cfg(test)]`: an item, a statement, a method.
fn without_tests(tokens: TokenStream) -> TokenStream {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_hash = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#');
        let is_test = |next: &TokenTree| next.to_string().replace(' ', "") == "[cfg(test)]";
        if is_hash && tokens.next_if(is_test).is_some() {
            // Up to the braces or the semicolon that end it. An attribute behind this one is in brackets.
            for token in tokens.by_ref() {
                match &token {
                    TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => break,
                    TokenTree::Punct(punct) if punct.as_char() == ';' => break,
                    _ => {}
                }
            }
        } else if let TokenTree::Group(group) = &token {
            let mut new = proc_macro2::Group::new(group.delimiter(), without_tests(group.stream()));
            new.set_span(group.span());
            kept.push(new.into());
        } else {
            kept.push(token);
        }
    }
    kept.into_iter().collect()
}

/// Reads what a file imports, declares and names.
struct Reader<'a> {
    file: &'a mut File,
    /// The item that is being read.
    item: String,
}

impl Reader<'_> {
    fn mention(&mut self, path: Names, at: &Ident) {
        let (item, line) = (self.item.clone(), at.span().start().line);
        self.file.mentions.push(Mention { item, path, line });
    }

    fn read_imports(&mut self, tree: &UseTree, mut path: Names) {
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                self.read_imports(&tree.tree, path);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.read_imports(tree, path.clone()));
            }
            UseTree::Name(tree) => self.add_import(path, &tree.ident, &tree.ident),
            UseTree::Rename(tree) => self.add_import(path, &tree.ident, &tree.rename),
            // All variants of an enum lead nowhere else than the enum itself.
            UseTree::Glob(tree) if path.last().is_some_and(|last| last.starts_with(char::is_uppercase)) => {
                let line = tree.star_token.spans[0].start().line;
                self.file.mentions.push(Mention { item: IMPORT.to_owned(), path, line });
            }
            UseTree::Glob(_) => self.file.opaque.push(format!("imports all of `{}`", path.join("::"))),
        }
    }

    fn add_import(&mut self, mut path: Names, last: &Ident, name: &Ident) {
        let mut name = name.to_string();
        if last == "self" {
            name = path.last().cloned().unwrap_or_default();
        } else {
            path.push(last.to_string());
        }
        let line = last.span().start().line;
        self.file.mentions.push(Mention { item: IMPORT.to_owned(), path: path.clone(), line });
        if name != "_" {
            self.file.imports.insert(name, path);
        }
    }

    /// Takes a text for a path if it looks like one, as in `#[serde(default = "crate::policy::default")]`.
    fn scan_text(&mut self, literal: &Literal) {
        let text = syn::parse_str::<syn::LitStr>(&literal.to_string());
        let path = text.and_then(|text| text.parse::<syn::Path>());
        if let Some(path) = path.ok().filter(|path| path.segments.len() > 1) {
            let (item, line) = (self.item.clone(), literal.span().start().line);
            let path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.file.mentions.push(Mention { item, path, line });
        }
    }

    /// Finds paths in tokens that only a macro understands.
    fn scan(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        let mut before = ' ';
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => {
                    self.scan(group.stream());
                    before = ' ';
                }
                TokenTree::Punct(punct) => before = punct.as_char(),
                TokenTree::Literal(literal) => {
                    self.scan_text(&literal);
                    before = ' ';
                }
                TokenTree::Ident(first) => {
                    let mut path = vec![first.to_string()];
                    let colon = |token: &TokenTree, spacing| matches!(token, TokenTree::Punct(p) if p.as_char() == ':' && p.spacing() == spacing);
                    while tokens.next_if(|token| colon(token, Spacing::Joint)).is_some() {
                        tokens.next();
                        match tokens.next_if(|token| matches!(token, TokenTree::Ident(_))) {
                            Some(next) => path.push(next.to_string()),
                            None => break,
                        }
                    }
                    // What follows a dot is a field or a method.
                    if before != '.' {
                        self.mention(path, &first);
                    }
                    before = ' ';
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let start = if item.leading_colon.is_some() { vec![String::new()] } else { Vec::new() };
        self.read_imports(&item.tree, start);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.file.opaque.push(format!("has the module `{}` inside it", item.ident));
        }
        self.file.children.insert(item.ident.to_string());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path.leading_colon.is_some() {
            names.insert(0, String::new());
        }
        self.mention(names, &path.segments[0].ident);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.visit_path(&invocation.path);
        self.scan(invocation.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        match &attribute.meta {
            syn::Meta::Path(path) => self.visit_path(path),
            syn::Meta::List(list) => {
                self.visit_path(&list.path);
                self.scan(list.tokens.clone());
            }
            // Documentation, and lints.
            syn::Meta::NameValue(_) => {}
        }
    }

    /// `pub(in crate::rest)` says who may see a thing, not what it needs.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}
