//! Source files, and which of them import from which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Meta, UseTree, Visibility};

/// Who imports from whom, and one of the items.
pub type Arrows = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// The arrows among the files of `crates`, given by name and root; `read` gives a file's text.
///
/// # Panics
/// A file is missing, or is no Rust.
pub fn arrows(crates: &[(&str, &str)], read: &dyn Fn(&Path) -> Option<String>) -> Arrows {
    let mut tree = Tree { modules: Vec::new(), crates: BTreeMap::new() };
    for (name, root) in crates {
        let Some(text) = read(Path::new(root)) else { panic!("{root} can't be read") };
        let id = tree.add(None, PathBuf::from(root));
        if !name.is_empty() {
            tree.crates.insert((*name).to_owned(), id);
        }
        let folder = Path::new(root).parent().unwrap_or(Path::new("")).to_owned();
        Reader { tree: &mut tree, read, module: id, folder }.file(&text);
    }
    tree.arrows()
}

/// A module of a crate; several may be in one file.
struct Module {
    parent: Option<usize>,
    file: PathBuf,
    children: BTreeMap<String, usize>,
    /// What is defined in it.
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// The paths that its code has.
    paths: BTreeSet<Vec<String>>,
}

struct Import {
    path: Vec<String>,
    /// The name that it gives; none for all of a module's.
    name: Option<String>,
    reexport: bool,
}

/// What a path leads to.
#[derive(Clone, Copy)]
enum Found {
    /// A module.
    Module(usize),
    /// An item that this module defines.
    Item(usize),
    /// Something that is in none of the crates.
    Elsewhere,
}

struct Tree {
    modules: Vec<Module>,
    crates: BTreeMap<String, usize>,
}

/// Re-exports of re-exports that are followed; more is a circle of them.
const STEPS_MAX: usize = 16;

impl Tree {
    fn add(&mut self, parent: Option<usize>, file: PathBuf) -> usize {
        self.modules.push(Module {
            parent,
            file,
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            imports: Vec::new(),
            paths: BTreeSet::new(),
        });
        self.modules.len() - 1
    }

    fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (id, module) in self.modules.iter().enumerate() {
            let from = arrows.entry(module.file.clone()).or_default();
            let mut point = |to: usize, path: &[String]| {
                let to = &self.modules[to].file;
                if *to != module.file {
                    from.entry(to.clone()).or_insert_with(|| path.join("::"));
                }
            };
            for import in module.imports.iter().filter(|import| !import.reexport) {
                match (self.resolve(id, &import.path, 0), &import.name) {
                    (Found::Item(to), _) | (Found::Module(to), None) => point(to, &import.path),
                    (Found::Module(_) | Found::Elsewhere, _) => {}
                }
            }
            for path in &module.paths {
                if let Found::Item(to) = self.resolve(id, path, 0) {
                    point(to, path);
                }
            }
        }
        arrows
    }

    /// What `path` means in a module.
    fn resolve(&self, from: usize, path: &[String], steps: usize) -> Found {
        let root = |mut id: usize| {
            while let Some(parent) = self.modules[id].parent {
                id = parent;
            }
            id
        };
        let Some((first, mut rest)) = path.split_first() else { return Found::Elsewhere };
        let mut at = match first.as_str() {
            "crate" => root(from),
            "self" => from,
            "super" => self.modules[from].parent.unwrap_or(from),
            name => match self.look_up(from, name, rest.is_empty(), steps) {
                Some(Found::Module(id)) => id,
                Some(found) => return found,
                None => match self.crates.get(name) {
                    Some(id) => *id,
                    None => return Found::Elsewhere,
                },
            },
        };
        while let Some((name, after)) = rest.split_first() {
            rest = after;
            if name == "super" {
                at = self.modules[at].parent.unwrap_or(at);
                continue;
            }
            match self.look_up(at, name, rest.is_empty(), steps) {
                Some(Found::Module(id)) => at = id,
                Some(found) => return found,
                // Made by a macro.
                None => return Found::Item(at),
            }
        }
        Found::Module(at)
    }

    /// What `name` means in a module, at the end of a path or on its way.
    fn look_up(&self, at: usize, name: &str, last: bool, steps: usize) -> Option<Found> {
        if steps > STEPS_MAX {
            return Some(Found::Elsewhere);
        }
        let module = &self.modules[at];
        let child = module.children.get(name).map(|id| Found::Module(*id));
        let item = module.items.contains(name).then_some(Found::Item(at));
        let own = if last { item.or(child) } else { child.or(item) };
        let named = || module.imports.iter().find(|import| import.name.as_deref() == Some(name));
        // `use log::x` in a module `log`'s parent names the module; `use log::Log` in itself can't.
        let imported = || named().map(|import| self.resolve(at, &import.path, steps + 1));
        let globbed = || {
            module.imports.iter().filter(|import| import.name.is_none()).find_map(|import| {
                match self.resolve(at, &import.path, steps + 1) {
                    Found::Module(id) if id != at => self.look_up(id, name, last, steps + 1),
                    _ => None,
                }
            })
        };
        own.or_else(imported).or_else(globbed)
    }
}

/// Reads a file into its module, and the files of the modules that it declares.
struct Reader<'a> {
    tree: &'a mut Tree,
    read: &'a dyn Fn(&Path) -> Option<String>,
    module: usize,
    /// Where the files of its children are.
    folder: PathBuf,
}

impl Reader<'_> {
    fn file(&mut self, text: &str) {
        let name = self.own().file.display().to_string();
        let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        self.items(&file.items);
    }

    fn own(&mut self) -> &mut Module {
        &mut self.tree.modules[self.module]
    }

    fn items(&mut self, items: &[Item]) {
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            self.own().items.extend(name_of(item));
            self.visit_item(item);
        }
    }

    fn words(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 {
                        self.own().paths.insert(std::mem::take(&mut path));
                    }
                    path.push(word.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.own().paths.insert(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.words(group.stream());
                    }
                }
            }
        }
        self.own().paths.insert(path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Fn(f) => &f.attrs[..],
            ImplItem::Const(c) => &c.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let name = module.ident.to_string();
        let file = self.own().file.clone();
        let (file, folder, text) = match (&module.content, path_of(&module.attrs)) {
            (Some(_), _) => (file, self.folder.join(&name), None),
            (None, Some(path)) => {
                let file = normal(&file.parent().unwrap_or(Path::new("")).join(path));
                let folder = file.with_extension("");
                let text = (self.read)(&file);
                (file, folder, Some(text))
            }
            (None, None) => {
                let folder = self.folder.join(&name);
                let files = [self.folder.join(format!("{name}.rs")), folder.join("mod.rs")];
                let found = files.into_iter().find_map(|file| Some(((self.read)(&file)?, file)));
                let (text, file) = found.map_or((None, file), |(text, file)| (Some(text), file));
                (file, folder, Some(text))
            }
        };
        let id = self.tree.add(Some(self.module), file);
        self.own().children.insert(name.clone(), id);
        let mut inner = Reader { tree: &mut *self.tree, read: self.read, module: id, folder };
        match (&module.content, text) {
            (Some((_, items)), _) => inner.items(items),
            (None, Some(Some(text))) => inner.file(&text),
            (None, _) => panic!("no file for the module {name}"),
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let reexport = !matches!(item.vis, Visibility::Inherited);
        let mut imports = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut |path, name| {
            imports.push(Import { path, name, reexport });
        });
        self.own().imports.extend(imports);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.own().paths.insert(words);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, macro_: &'ast syn::Macro) {
        self.words(macro_.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.words(list.tokens.clone());
        }
    }
}

/// Tells of each path that a `use` imports, and of the name it gives: none for a glob.
fn flatten(
    tree: &UseTree,
    before: &mut Vec<String>,
    tell: &mut dyn FnMut(Vec<String>, Option<String>),
) {
    let with = |word: &syn::Ident, before: &[String]| {
        let mut path = before.to_vec();
        if word != "self" || path.is_empty() {
            path.push(word.to_string());
        }
        path
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, tell);
            before.pop();
        }
        UseTree::Name(name) => {
            let path = with(&name.ident, before);
            let last = path.last().cloned();
            tell(path, last);
        }
        UseTree::Rename(rename) => {
            tell(with(&rename.ident, before), Some(rename.rename.to_string()));
        }
        UseTree::Glob(_) => tell(before.clone(), None),
        UseTree::Group(group) => group.items.iter().for_each(|item| flatten(item, before, tell)),
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(i) => &i.ident,
        Item::Enum(i) => &i.ident,
        Item::Fn(i) => &i.sig.ident,
        Item::Macro(i) => i.ident.as_ref()?,
        Item::Static(i) => &i.ident,
        Item::Struct(i) => &i.ident,
        Item::Trait(i) => &i.ident,
        Item::Type(i) => &i.ident,
        Item::Union(i) => &i.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Union(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// Whether an item is there only for tests: `#[cfg(test)]`, or by the feature for those of others.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|a| a.path().is_ident("cfg")).any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        let words = words_of(list.tokens.clone());
        let has = |wanted: &str| words.iter().any(|word| word == wanted);
        !has("not") && (has("test") || has("\"test-utils\""))
    })
}

/// The words and texts among tokens, at any depth.
fn words_of(tokens: TokenStream) -> Vec<String> {
    let words = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => words_of(group.stream()),
        other => vec![other.to_string()],
    });
    words.collect()
}

/// The file that `#[path = "…"]` names.
fn path_of(attributes: &[Attribute]) -> Option<PathBuf> {
    let path = attributes.iter().find(|a| a.path().is_ident("path"))?;
    let Meta::NameValue(pair) = &path.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else {
        return None;
    };
    Some(text.value().into())
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
