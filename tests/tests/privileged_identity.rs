//! Who a container runs as, as the request says it. What images say is in `privileged_cve_identity`.

use cri_api::runtime::v1::{Int64Value, LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use suite::image::{Compression, Tree};
use suite::pods::security;
use suite::{ImageBuilder, in_world};
use tonic::Code;

type Change = fn(&mut LinuxContainerSecurityContext);

/// User, primary group, and all groups with that one first.
type Expected = (i64, i64, &'static [i64]);

fn value(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

const STRICT: i32 = SupplementalGroupsPolicy::Strict as i32;

#[test]
fn privileged_users_and_groups_are_exact_in_the_process_the_exec_and_the_status() {
    in_world(|world| {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n2000:x:5:5::/:/bin/sh\n";
        let group = b"root:x:0:\napp:x:1001:\nextra:x:2000:app\nmore:x:3000:other,app\nothers:x:4000:other\n";
        let tree =
            Tree::default().file("etc/passwd", 0o644, passwd).file("etc/group", 0o644, group);
        let image = ImageBuilder::busybox()
            .layer(Compression::Gzip, tree)
            .config("User", serde_json::json!("app"))
            .build();
        let image = world.pull(&world.registry().push("identity", "1", &image));
        let pod = world.run_pod("identity");
        let cases: [(&str, Change, Expected); 8] = [
            ("the image's", |_| {}, (1000, 1001, &[1001, 2000, 3000])),
            ("number", |it| it.run_as_user = value(1000), (1000, 1001, &[1001, 2000, 3000])),
            ("name", |it| it.run_as_username = "app".into(), (1000, 1001, &[1001, 2000, 3000])),
            ("a number is no name", |it| it.run_as_username = "2000".into(), (2000, 0, &[0])),
            ("unknown number", |it| it.run_as_user = value(77), (77, 0, &[0])),
            (
                "number and group",
                |it| (it.run_as_user, it.run_as_group) = (value(1000), value(9)),
                (1000, 9, &[9, 2000, 3000]),
            ),
            (
                "merged",
                |it| {
                    it.run_as_username = "app".into();
                    it.run_as_group = value(9);
                    it.supplemental_groups = vec![50_000, 2000];
                },
                (1000, 9, &[9, 2000, 3000, 50_000]),
            ),
            (
                "strict",
                |it| {
                    it.run_as_user = value(1000);
                    it.supplemental_groups = vec![50_000, 2000];
                    it.supplemental_groups_policy = STRICT;
                },
                (1000, 1001, &[1001, 50_000, 2000]),
            ),
        ];
        for (name, change, (uid, gid, groups)) in cases {
            let mut config =
                world.container_config(&name.replace([' ', '\''], "-"), &["sleep", "1000"]);
            config.image.as_mut().unwrap().image.clone_from(&image.id);
            change(security(&mut config));
            let id = world.run(&pod, config);
            let told = world.status(&id).user.unwrap().linux.unwrap();
            assert_eq!((told.uid, told.gid), (uid, gid), "{name}");
            assert_eq!(told.supplemental_groups, groups, "{name}");
            let mut want = groups.to_vec();
            want.sort_unstable();
            for process in ["1", "self"] {
                let status = world.exec(&id, &["cat", &format!("/proc/{process}/status")]);
                let field = |key: &str| -> Vec<i64> {
                    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
                };
                assert_eq!(field("Uid:"), [uid; 4], "{name}: {process}");
                assert_eq!(field("Gid:"), [gid; 4], "{name}: {process}");
                assert_eq!(field("Groups:"), want, "{name}: {process}");
            }
            world.stop(&id, 0);
        }
        world.remove_all_pods();
        world.remove_image(&image.id);
    });
}

#[test]
fn privileged_users_and_groups_that_cannot_be_are_refused_and_leave_nothing() {
    in_world(|world| {
        let pod = world.run_pod("refused");
        let before = world.settled();
        let cases: [(&str, Change); 12] = [
            ("group alone", |it| it.run_as_group = value(5)),
            ("user twice", |it| {
                it.run_as_user = value(1000);
                it.run_as_username = "app".into();
            }),
            ("unknown name", |it| it.run_as_username = "nobody-knows".into()),
            ("a name with a group", |it| it.run_as_username = "app:app".into()),
            ("negative user", |it| it.run_as_user = value(-1)),
            ("no id", |it| it.run_as_user = value(4_294_967_295)),
            ("wraps to root", |it| it.run_as_user = value(4_294_967_296)),
            ("far beyond", |it| it.run_as_user = value(i64::MAX)),
            ("a name that is no id", |it| it.run_as_username = "4294967296".into()),
            ("negative group", |it| (it.run_as_user, it.run_as_group) = (value(1), value(-1))),
            ("group wraps", |it| (it.run_as_user, it.run_as_group) = (value(1), value(1 << 32))),
            ("further group wraps", |it| it.supplemental_groups = vec![1 << 32]),
        ];
        for (name, change) in cases {
            let mut config = world.container_config("refused", &["true"]);
            change(security(&mut config));
            let refused = world.try_create(&pod, config).expect_err(name);
            assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
        }
        world.assert_census_is(&before);
    });
}
