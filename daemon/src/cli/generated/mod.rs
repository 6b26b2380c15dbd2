//! What is made of the declarations: man pages of the command line's, vestibule.conf(5) of docs/configuration.md (whose tables
//! are made of those of the settings), and completions for shells. They stand in `packaging/`, held by these tests.
//!
//! `VESTIBULE_WRITE_DOCS=1 cargo test --bin vestibule generated` writes them anew.

mod roff;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Arguments;

/// The day that stands at the foot of each page: pages do not change with the calendar.
const DATE: &str = "2026-11-29";

/// The command line, with a version that is not of one commit.
fn command() -> Command {
    let mut whole = Arguments::command().version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    whole.build();
    whole
}

fn source() -> String {
    format!("vestibule {}", env!("CARGO_PKG_VERSION"))
}

/// Every file below `packaging`, and what it should hold.
fn files() -> Vec<(PathBuf, String)> {
    let whole = command();
    let mut all = vec![(PathBuf::from("man/vestibule.conf.5"), configuration_page())];
    command_pages(&whole, &mut all);
    for (shell, file) in [(Shell::Bash, "vestibule.bash"), (Shell::Zsh, "_vestibule"), (Shell::Fish, "vestibule.fish")]
    {
        let mut script = Vec::new();
        let mut whole = Arguments::command().version(env!("CARGO_PKG_VERSION"));
        clap_complete::generate(shell, &mut whole, "vestibule", &mut script);
        all.push((Path::new("completions").join(file), text(script)));
    }
    all
}

/// A page for a command and for each below it, such as `vestibule-ctl-ban.1`. The daemon itself is `vestibule.8`.
fn command_pages(command: &Command, all: &mut Vec<(PathBuf, String)>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let page = match name {
        "vestibule-serve" => daemon_page(command),
        _ => command_page(command, "1") + &see_also(&format!("{name}(1)")),
    };
    let file = if name == "vestibule-serve" { "vestibule.8".to_owned() } else { format!("{name}.1") };
    all.push((Path::new("man").join(file), page));
    command.get_subcommands().for_each(|below| command_pages(below, all));
}

fn daemon_page(serve: &Command) -> String {
    let files = "\
.SH FILES\n.TP\n\\fI/etc/vestibule.conf\\fR\nThe configuration, by the unit that comes with the program: vestibule.conf(5).\n\
.TP\n\\fI/run/vestibule/\\fR\nWhere the packaged configuration has takeover_socket and control_socket.\n";
    command_page(&serve.clone().display_name("vestibule"), "8") + files + &see_also("vestibule(8)")
}

fn command_page(command: &Command, section: &str) -> String {
    let man = Man::new(command.clone()).section(section).date(DATE).source(source());
    let mut page = Vec::new();
    man.render_title(&mut page).expect("a Vec takes everything");
    man.render_name_section(&mut page).expect("a Vec takes everything");
    man.render_synopsis_section(&mut page).expect("a Vec takes everything");
    man.render_description_section(&mut page).expect("a Vec takes everything");
    man.render_options_section(&mut page).expect("a Vec takes everything");
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page).expect("a Vec takes everything");
    }
    // The page of `serve` is the daemon's.
    let page = text(page).replace("vestibule\\-serve(1)", "vestibule(8)").replace(".br\n\n.br\n", ".br\n");
    page + &command.get_after_help().map(|help| roff::after_help(&help.to_string())).unwrap_or_default()
}

/// The pages that a reader of this one, such as `vestibule-ctl-ban(1)`, may want next.
fn see_also(this: &str) -> String {
    let above = this.rsplit_once('-').map(|(above, _)| format!("{above}(1)")).filter(|above| above != "vestibule(1)");
    let others = above.into_iter().chain(["vestibule(1)", "vestibule.conf(5)", "vestibule(8)"].map(str::to_owned));
    let others: Vec<String> = others.filter(|other| other != this).collect();
    format!(".SH \"SEE ALSO\"\n{}\n", others.join(", ").replace('-', "\\-"))
}

fn configuration_page() -> String {
    let document = include_str!("../../../../docs/configuration.md");
    let name = ".SH NAME\nvestibule.conf \\- configuration of vestibule(8)\n.SH DESCRIPTION\n";
    let head = format!(".TH vestibule.conf 5 {DATE} \"{}\"\n{name}", source());
    head + &roff::document(document) + &see_also("vestibule.conf(5)")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn man_pages_and_completions_are_those_of_the_declarations() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let write = std::env::var_os("VESTIBULE_WRITE_DOCS").is_some();
    let files = files();
    for (name, wanted) in &files {
        let file = packaging.join(name);
        if write {
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("it can be made");
            fs::write(&file, wanted).expect("it can be written");
        }
        let present = fs::read_to_string(&file).unwrap_or_default();
        assert!(present == *wanted, "{}: write it anew with VESTIBULE_WRITE_DOCS=1", file.display());
    }
    for folder in ["man", "completions"] {
        for entry in fs::read_dir(packaging.join(folder)).expect("it is there") {
            let name = Path::new(folder).join(entry.expect("it can be read").file_name());
            assert!(files.iter().any(|(known, _)| *known == name), "{} is of nothing any more", name.display());
        }
    }
}

#[test]
fn every_subcommand_and_every_option_has_its_place() {
    let files = files();
    let page_of = |name: &str| &files.iter().find(|(file, _)| file == &Path::new("man").join(name)).expect(name).1;
    for below in command().get_subcommands() {
        let name = below.get_name();
        let page = page_of(&if name == "serve" { "vestibule.8".into() } else { format!("vestibule-{name}.1") });
        for option in below.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(page.contains(&format!("\\-\\-{}", option.replace('-', "\\-"))), "{name}: --{option}");
        }
    }
    let settings = page_of("vestibule.conf.5");
    for known in vestibule::config::SETTINGS {
        assert!(settings.contains(&format!("\n.TP\n\\fB{}\\fR", known.name)), "{}", known.name);
    }
}
