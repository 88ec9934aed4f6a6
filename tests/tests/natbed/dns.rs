//! Names, through the gateway's forwarder.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use minivmm_tests::natbed::{Bed, GATEWAY4, SERVER4, SERVER4_B, test, tool};

use crate::{plain, until};

fn dig(bed: &Bed, args: &str) -> Result<String> {
    dig_at(bed, GATEWAY4.into(), args)
}

fn dig_at(bed: &Bed, server: IpAddr, args: &str) -> Result<String> {
    bed.guest_sh(&format!("dig @{server} +tries=1 +time=5 {args}"))
}

fn serve(bed: &mut Bed, at: &str, address: &str) -> Result<()> {
    bed.serve_peer(&[&format!("dns={at}:53"), &format!("record=www.example.test,{address}")])
}

#[test]
fn names_resolve_over_udp_and_tcp() {
    test("dns::names_resolve_over_udp_and_tcp", || {
        tool("dig")?;
        let mut bed = plain()?;
        serve(&mut bed, SERVER4, "203.0.113.5")?;
        for server in [GATEWAY4.into(), bed.config.gateway6.into()] {
            for how in ["+notcp", "+tcp"] {
                let answer = dig_at(&bed, server, &format!("+short {how} www.example.test"))?;
                ensure!(answer.trim() == "203.0.113.5", "{server} {how}: {answer}");
            }
            ensure!(dig_at(&bed, server, "nowhere.example.test")?.contains("NXDOMAIN"));
        }
        Ok(())
    });
}

#[test]
fn without_a_resolver_the_answer_is_servfail() {
    test("dns::without_a_resolver_the_answer_is_servfail", || {
        tool("dig")?;
        let bed = plain()?;
        bed.set_resolvers("")?;
        let text = dig(&bed, "www.example.test")?;
        ensure!(text.contains("SERVFAIL"), "{text}");
        Ok(())
    });
}

#[test]
fn new_resolvers_are_used_soon() {
    test("dns::new_resolvers_are_used_soon", || {
        tool("dig")?;
        let mut bed = plain()?;
        serve(&mut bed, SERVER4, "203.0.113.5")?;
        serve(&mut bed, SERVER4_B, "203.0.113.6")?;
        ensure!(dig(&bed, "+short www.example.test")?.trim() == "203.0.113.5");
        bed.set_resolvers(&format!("nameserver {SERVER4_B}\n"))?;
        until("the new resolver", || {
            Ok(dig(&bed, "+short www.example.test")?.trim() == "203.0.113.6")
        })
    });
}
